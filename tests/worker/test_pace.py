"""What calls may take: asked for, unknown, or by the pace so far."""

from __future__ import annotations

import pytest

from batchinfer.worker.pace import LEAST_SECONDS, SILENT_SECONDS, TIMES, UNKNOWN_SECONDS, Pace, Paces


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_before_the_first_call_nothing_is_known_and_much_is_allowed() -> None:
    assert Pace("it").limit(10) == UNKNOWN_SECONDS
    assert Pace("it", timeout=3.0).limit(10) == 3.0


def test_a_call_may_take_many_times_what_calls_of_its_size_took() -> None:
    pace = Pace("it")
    pace.note(0.01, 100)
    assert pace.limit(100) == LEAST_SECONDS
    for _ in range(50):
        pace.note(30.0, 100)
    assert pace.limit(100) == TIMES * 30.0
    assert pace.limit(1000) == TIMES * 300.0
    assert Pace("it", timeout=3.0).limit(1000) == 3.0


def test_one_slow_call_among_many_does_not_raise_the_limit() -> None:
    pace = Pace("it")
    for seconds in [*[7.0] * 99, 5000.0]:
        pace.note(seconds, 1)
    assert pace.limit(1) == TIMES * 7.0


def test_a_pace_that_was_measured_before_is_taken_over_once() -> None:
    pace = Pace("it")
    pace.begin_at(2.0)
    assert pace.limit(100) == TIMES * 200.0
    pace.begin_at(900.0)
    assert pace.by_row == 2.0


def test_a_call_is_overdue_only_while_it_goes_on_and_past_its_limit() -> None:
    clock = Clock()
    pace = Pace("it", timeout=5.0, clock=clock)

    def at(seconds: float) -> str | None:
        clock.now = seconds
        return pace.overdue

    assert pace.call(8, lambda: [at(5.0), at(5.1)]) == [None, "it took more than 5 s"]
    assert pace.overdue is None
    assert pace.by_row == 5.1 / 8


def test_a_call_that_raises_says_nothing_of_the_pace() -> None:
    pace = Pace("it")
    with pytest.raises(ZeroDivisionError):
        pace.call(1, lambda: 1 // 0)
    assert pace.by_row is None
    assert pace.overdue is None


def test_a_window_is_prepared_in_the_time_of_the_calls_on_it() -> None:
    paces = Paces(timeout=2.0)
    assert paces.prepare.limit(8) == 16.0
    paces.settle(None, rows=4)
    assert (paces.prepare.limit(8), paces.prepare.limit(1)) == (4.0, 2.0)
    assert paces.infer.limit(8) == 2.0


def test_a_silent_worker_is_given_time_by_what_it_has_in_hand() -> None:
    paces = Paces(timeout=2.0)
    assert paces.patience == LEAST_SECONDS + SILENT_SECONDS
    assert paces.infer.call(8, lambda: paces.patience) == 2.0 + SILENT_SECONDS
    assert paces.infer.call(8, paces.load.call, 1, lambda: paces.patience) == UNKNOWN_SECONDS + SILENT_SECONDS
