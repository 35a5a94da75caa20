"""Whether rows of equal content are frequent enough among a job's rows that predicting them once pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from batchinfer.data.row_keys import row_keys

LEAST_SHARE = 0.01
"""Of rows whose like came before."""
ROWS = 4096
"""That are looked at."""
LEAST_SECONDS = 20e-6
"""Of a model for a row: a faster one isn't worth a look."""
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

    def pays(self, row_seconds: float) -> bool:
        """Whether a model that takes `row_seconds` a row is better asked once."""
        share = self.repeated / self.rows if self.rows else 0.0
        return share >= LEAST_SHARE and share * row_seconds >= PAYS * self.key_seconds


def duplicates(table: pa.Table, clock: Callable[[], float] = time.perf_counter) -> Duplicates:
    """Of the first rows of a table of at least one column."""
    some = table.slice(0, ROWS)
    began = clock()
    keys = row_keys(some.columns)
    seconds = clock() - began
    return Duplicates(len(some), len(keys) - len(set(keys)), seconds / max(1, len(some)))
