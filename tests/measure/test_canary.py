"""What a canary says of a whole job: pure functions of what was seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchinfer.measure.canary import Canary, Comparison, Mark, compare, row_seconds
from batchinfer.measure.intervals import Interval


def marks(*seconds: float, rows: int = 64) -> list[Mark]:
    """Ends of pieces of equal size that took so long each; the first mark is where they begin."""
    ends = [10.0]
    for one in seconds:
        ends.append(ends[-1] + one)
    return [Mark(end, n, n * rows) for n, end in enumerate(ends)]


def seen(executor: str = "inline", start: float = 5.0, pace: float = 0.01, wide: float = 0.001) -> Canary:
    row = Interval(pace, pace - wide, pace + wide)
    return Canary(executor, 1, 2.0, 448, 7, 64, start, start + 3, row, 10**9, 0)


def test_the_pace_is_the_mean_of_the_pieces_and_its_range_holds_it() -> None:
    pace = row_seconds(marks(1.0, 1.2, 0.9, 1.1, 1.0, 0.8, 1.0), 1, 10**6)
    assert pace.value == pytest.approx(7.0 / (7 * 64))
    assert 0.8 / 64 <= pace.low < pace.value < pace.high < 1.3 / 64


def test_pieces_that_take_alike_leave_no_doubt() -> None:
    pace = row_seconds(marks(1.0, 1.0, 1.0, 1.0), 1, 10**6)
    assert (pace.low, pace.high) == (pytest.approx(pace.value), pytest.approx(pace.value))


def test_pieces_that_differ_more_make_the_range_wider() -> None:
    close, apart = (row_seconds(marks(*([1 - by, 1 + by] * 4)), 1, 10**6) for by in (0.05, 0.3))
    assert apart.high - apart.low > 3 * (close.high - close.low)


def test_a_canary_of_the_whole_job_has_no_range() -> None:
    whole = row_seconds(marks(1.0, 1.4, 0.6, 1.0), 1, 4 * 64)
    assert whole.high - whole.low == pytest.approx(0)


def test_pieces_of_workers_side_by_side_count_together() -> None:
    """Two workers end their pieces at nearly the same time: one after the other says nothing of the pace."""
    ends = [Mark(0, 0, 0)]
    for n in range(4):
        ends += [Mark(n + 1.0, 2 * n + 1, (2 * n + 1) * 50), Mark(n + 1.01, 2 * n + 2, (2 * n + 2) * 50)]
    pace = row_seconds(ends, 2, 10**6)
    assert pace.value == pytest.approx(4.01 / 400)
    assert pace.high - pace.low < 0.001


def test_the_last_pieces_count_where_they_fill_no_turn_of_the_workers() -> None:
    pace = row_seconds(marks(1.0, 1.0, 1.0, 1.0, 1.0), 2, 10**6)
    assert pace.value == pytest.approx(5.0 / (5 * 64))
    alone = row_seconds(marks(2.0), 4, 10**6)
    assert alone == pytest.approx((2.0 / 64, 1.0 / 64, 4.0 / 64))


def test_the_job_takes_its_start_and_the_pace_and_its_devices_as_long() -> None:
    canary = seen()
    assert canary.seconds(1000) == pytest.approx((15.0, 14.0, 19.0))
    assert canary.device_hours(1000) == pytest.approx((30 / 3600, 28 / 3600, 38 / 3600))
    told = canary.to_json(1000, 36.0)
    assert told["cost"] == pytest.approx({"value": 0.3, "low": 0.28, "high": 0.38})
    assert told["rows_per_second"] == pytest.approx({"value": 100.0, "low": 1 / 0.011, "high": 1 / 0.009})
    assert canary.to_json(1000, None)["cost"] is None


@pytest.mark.parametrize(
    ("other", "rows", "found"),
    [
        (seen("ray", 15.0), 1000, Comparison("inline", None)),
        (seen("ray", 15.0, 0.005), 1000, Comparison("inline", 2000)),
        (seen("ray", 15.0, 0.005), 2000, Comparison(None, None)),
        (seen("ray", 15.0, 0.005), 10_000, Comparison("ray", None)),
        (seen("ray", 2.0, 0.02), 100, Comparison("ray", 300)),
        (seen("ray", 5.0), 1000, Comparison(None, None)),
    ],
)
def test_the_sooner_executor_depends_on_how_many_rows_there_are(other: Canary, rows: int, found: Comparison) -> None:
    assert compare(seen(), other, rows) == found
    assert compare(other, seen(), rows) == replace(found)
