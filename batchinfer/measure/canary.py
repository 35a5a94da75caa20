"""What a canary of a few hundred rows says of the whole job: its time and what it costs, as ranges. Pure functions of what was seen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from batchinfer.measure.intervals import Interval

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The 97.5th percentile of Student's t distribution, by degrees of freedom from 1 on."""
_ALONE = 2.0
"""By which factor a pace may be wrong that nothing was seen beside, of pieces of a larger job."""


class Mark(NamedTuple):
    """That so many pieces and rows of a canary were done at a time."""

    seconds: float
    pieces: int
    rows: int


def row_seconds(marks: Sequence[Mark], workers: int, population: int) -> Interval:
    """Seconds for a row, by the time from one piece's end to the next: the mean and its interval at 95 % by Student's t distribution, of
    pieces that speak for `population` rows.

    The first mark is where it begins. Of several workers, as many pieces are taken together, which are worked on side by side. The lower
    end is no less than the quickest took.
    """
    ends = [marks[0]]
    for mark in marks[1:]:
        if mark.pieces - ends[-1].pieces >= workers:
            ends.append(mark)
    if ends[-1] is not marks[-1] and len(ends) > 1:
        ends[-1] = marks[-1]
    elif ends[-1] is not marks[-1]:
        ends.append(marks[-1])
    gone = [(b.seconds - a.seconds, b.rows - a.rows) for a, b in itertools.pairwise(ends)]
    paces = np.array([seconds / rows for seconds, rows in gone])
    rows = ends[-1].rows - ends[0].rows
    mean = (ends[-1].seconds - ends[0].seconds) / rows
    if len(paces) == 1:
        alone = 1.0 if rows >= population else _ALONE
        return Interval(mean, mean / alone, mean * alone)
    left = 1 - rows / population if rows < population else 0.0  # what the pieces don't hold, of the whole job
    half = _T[min(len(paces) - 1, len(_T)) - 1] * float(paces.std(ddof=1)) * math.sqrt(left / len(paces))
    return Interval(mean, max(mean - half, min(mean, float(paces.min()))), mean + half)


@dataclass(frozen=True)
class Canary:
    """What was seen of a job on one executor."""

    executor: str
    """`inline` or `ray`."""
    workers: int
    devices: float
    rows: int
    """By which the pace was found."""
    pieces: int
    """That these rows were in."""
    before: int
    """Rows that it predicted before these, which warmed it up or were over too soon."""
    start: float
    """Seconds until every worker is ready, as a run takes them that measures nothing."""
    first_start: float
    """The same of the first run on a machine, which settles precision and batches."""
    row_seconds: Interval
    memory: int
    """The most that a worker's process took, in bytes; 0 where the system doesn't tell."""
    device_memory: int
    """Of a GPU's; 0 without one."""

    def seconds(self, rows: int) -> Interval:
        """Of a run over so many rows: its start, and the pace. The upper end has the first start."""
        pace = self.row_seconds
        return Interval(
            self.start + rows * pace.value,
            self.start + rows * pace.low,
            max(self.start, self.first_start) + rows * pace.high,
        )

    def to_json(self, rows: int, price_per_hour: float | None) -> dict[str, Any]:
        """For `--json`, with the range of what a job of so many rows takes."""
        seconds, pace = self.seconds(rows), self.row_seconds
        hours = _times(seconds, self.devices / 3600)
        return {
            "executor": self.executor,
            "workers": self.workers,
            "devices": self.devices,
            "rows": self.rows,
            "pieces": self.pieces,
            "rows_before": self.before,
            "start_seconds": round(self.start, 3),
            "first_start_seconds": round(self.first_start, 3),
            "rows_per_second": {"value": 1 / pace.value, "low": 1 / pace.high, "high": 1 / pace.low},
            "memory_bytes": self.memory or None,
            "device_memory_bytes": self.device_memory or None,
            "seconds": seconds._asdict(),
            "device_hours": hours._asdict(),
            "cost": None if price_per_hour is None else _times(hours, price_per_hour)._asdict(),
        }

    def device_hours(self, rows: int) -> Interval:
        """Of a run over so many rows."""
        return _times(self.seconds(rows), self.devices / 3600)


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(*(value * factor for value in interval))


@dataclass(frozen=True)
class Comparison:
    """Which of two executors is sooner for a job."""

    sooner: str | None
    """None where their ranges overlap so far that the canary doesn't tell."""
    crossing: int | None
    """Rows from which on the other one would be sooner, by the mean paces; None for never."""


def compare(one: Canary, other: Canary, rows: int) -> Comparison:
    """Compare two executors for a job of so many rows, by what a run takes that measures nothing."""
    seconds = [canary.start + rows * canary.row_seconds.value for canary in (one, other)]
    first, second = (one, other) if seconds[0] <= seconds[1] else (other, one)
    most = first.start + rows * first.row_seconds.high
    least = second.start + rows * second.row_seconds.low
    gained = first.row_seconds.value - second.row_seconds.value
    crossing = (second.start - first.start) / gained if gained else -1.0
    beyond = crossing > rows and gained > 0
    return Comparison(first.executor if most < least else None, round(crossing) if beyond else None)
