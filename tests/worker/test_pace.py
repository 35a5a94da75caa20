"""What calls may take: asked for, unknown, or by the pace so far."""

from __future__ import annotations

import pytest

from batchinfer.worker.pace import LEAST_SECONDS, TIMES, UNKNOWN_SECONDS, Pace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_before_the_first_call_nothing_is_known_and_much_is_allowed() -> None:
    assert Pace().limit(10) == UNKNOWN_SECONDS
    assert Pace(timeout=3.0).limit(10) == 3.0


def test_a_call_may_take_many_times_what_calls_of_its_size_took() -> None:
    pace = Pace()
    pace.note(0.01, 100)
    assert pace.limit(100) == LEAST_SECONDS
    for _ in range(50):
        pace.note(30.0, 100)
    assert pace.limit(100) == TIMES * 30.0
    assert pace.limit(1000) == TIMES * 300.0
    assert Pace(timeout=3.0).limit(1000) == 3.0


def test_one_slow_call_among_many_does_not_raise_the_limit() -> None:
    pace = Pace()
    for seconds in [*[7.0] * 99, 5000.0]:
        pace.note(seconds, 1)
    assert pace.limit(1) == TIMES * 7.0


def test_a_pace_that_was_measured_before_is_taken_over_once() -> None:
    pace = Pace()
    pace.begin_at(2.0)
    assert pace.limit(100) == TIMES * 200.0
    pace.begin_at(900.0)
    assert pace.by_row == 2.0


def test_a_call_is_overdue_only_while_it_goes_on_and_past_its_limit() -> None:
    clock = Clock()
    pace = Pace(timeout=5.0, clock=clock)
    with pace.call(8):
        clock.now = 5.0
        assert pace.overdue is None
        clock.now = 5.1
        assert pace.overdue == 5.0
    assert pace.overdue is None


def test_a_call_that_raises_says_nothing_of_the_pace() -> None:
    pace = Pace()
    with pytest.raises(ValueError, match="bad"), pace.call(1):
        raise ValueError("bad")
    assert pace.by_row is None
    assert pace.overdue is None
