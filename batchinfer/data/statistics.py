"""What a footer says about one column of one row group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class ColumnStats:
    """Bounds over the rows that are neither null nor NaN; None means that it isn't known."""

    low: Any
    high: Any
    nulls: int | None

    @classmethod
    def constant(cls, value: Any, rows: int) -> ColumnStats:
        """A column that holds `value` (None for null) in every one of `rows` rows."""
        return cls(value, value, rows if value is None else 0)


UNKNOWN = ColumnStats(None, None, None)


def of_chunk(chunk: Any, rows: int) -> ColumnStats:
    """The statistics of a `pyarrow.parquet.ColumnChunkMetaData` of a column that isn't nested; UNKNOWN where they can't be trusted."""
    if not chunk.is_stats_set:
        return UNKNOWN
    try:
        found = chunk.statistics
        low, high = (found.min, found.max) if found.has_min_max else (None, None)
        nulls = found.null_count if found.has_null_count else None
    except (ValueError, OverflowError, pa.ArrowException):  # bytes that are no value of the column's type
        return UNKNOWN
    if nulls is not None and not 0 <= nulls <= rows:
        return UNKNOWN
    if low is None or high is None or low != low or high != high:
        return ColumnStats(None, None, nulls)
    return ColumnStats(low, high, nulls) if low <= high else ColumnStats(None, None, nulls)
