"""Whether rows of equal content are frequent enough among a job's rows that predicting them once pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from batchinfer.data.row_keys import row_keys
from batchinfer.engines.protocol import Engine
from batchinfer.measure.timing import answers
from batchinfer.pipeline.batching import Budget

LEAST_SHARE = 0.01
"""Of rows whose like came before."""
ROWS = 4096
"""That are looked at."""
LEAST_SECONDS = 20e-6
"""Of a model for a row: a faster one isn't worth a look."""
TIMED_ROWS = 16
PAYS = 4.0
"""What is saved must be so many times what telling rows apart costs."""


@dataclass(frozen=True)
class Duplicates:
    """Of some rows."""

    rows: int
    repeated: int
    """Rows whose like came before them."""
    key_seconds: float
    """What it takes to tell one row from others."""

    @property
    def are_frequent(self) -> bool:
        """Whether there are enough of them to look further."""
        return self.repeated > 0 and self.repeated >= LEAST_SHARE * self.rows

    def pays(self, row_seconds: float) -> bool:
        """Whether a model that takes `row_seconds` a row is better asked once."""
        if not self.are_frequent or not is_slow(row_seconds):
            return False
        return self.repeated / self.rows * row_seconds >= PAYS * self.key_seconds


def is_slow(row_seconds: float | None) -> bool:
    """Whether a model that takes so long for a row, or nobody knows how long, is worth a look."""
    return row_seconds is None or row_seconds > LEAST_SECONDS


def row_seconds(
    engine: Engine, table: pa.Table, budget: Budget, clock: Callable[[], float] = time.perf_counter
) -> float | None:
    """What a loaded model takes for a row, by a few of them; None where it answers none of these."""
    some, seconds = table.slice(0, TIMED_ROWS), 0.0
    for _ in range(2):  # the first call makes ready what later ones have
        began = clock()
        answered = len(answers(engine, some, budget).positions)
        if not answered:
            return None
        seconds = (clock() - began) / answered
    return seconds


def duplicates(table: pa.Table, clock: Callable[[], float] = time.perf_counter) -> Duplicates:
    """Of the first rows of a table of at least one column."""
    some = table.slice(0, ROWS)
    began = clock()
    keys = row_keys(some.columns)
    seconds = clock() - began
    return Duplicates(len(some), len(keys) - len(set(keys)), seconds / max(1, len(some)))
