"""What a footer says about one column of one row group."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchinfer.data import thrift

_META, _TYPE, _STATISTICS = 3, 1, 12
_ROW_GROUPS, _COLUMNS = 4, 1
_BOUNDS = ((2, 1), (6, 5))
"""Field numbers of the lower and the upper bound, as they were first written and as they are written today."""
_WANTED: thrift.Wanted = {
    _ROW_GROUPS: {_COLUMNS: {_META: {_TYPE: None, _STATISTICS: {n: None for pair in _BOUNDS for n in pair}}}}
}
_TYPES = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


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


class Written:
    """A footer's statistics as they are written, to be looked at before Arrow decodes them.

    Arrow ends the process for a bound that is shorter than the column's type, and makes a value up for one that is missing.
    """

    def __init__(self, footer: bytes) -> None:
        self._groups: Sequence[Any] = ()
        with contextlib.suppress(ValueError, KeyError):
            self._groups = thrift.parse(footer, _WANTED)[_ROW_GROUPS]

    def sound(self, group: int, column: int, leaf: Any) -> bool:
        """Whether a column chunk has statistics that Arrow can decode; `leaf` is the column's `pyarrow.parquet.ColumnSchema`."""
        try:
            meta = self._groups[group][_COLUMNS][column][_META]
            statistics = meta[_STATISTICS]
            bounds = [[statistics[n] for n in pair if n in statistics] for pair in _BOUNDS]
            kind = leaf.physical_type
            return meta[_TYPE] == _TYPES.index(kind) and all(_fit(pair, kind, leaf.length) for pair in bounds)
        except (LookupError, TypeError):  # not there, or not what it should be
            return False


def _fit(bounds: Sequence[bytes], kind: str, length: int) -> bool:
    """Whether there are both bounds or none, each as wide as its type."""
    width = length if kind == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(kind)
    return not bounds or (len(bounds) == 2 and all(len(b) == width or width is None for b in bounds))


def of_chunk(chunk: Any, rows: int) -> ColumnStats:
    """The statistics of a `pyarrow.parquet.ColumnChunkMetaData` of a column that isn't nested; UNKNOWN where they can't be trusted.

    Only for a chunk whose statistics are sound (see Written): for others asking may end the process.
    """
    if not chunk.is_stats_set:
        return UNKNOWN
    try:
        found = chunk.statistics
        low, high, nulls = found.min, found.max, found.null_count  # None where it isn't there
    except (ValueError, OverflowError, pa.ArrowException):  # bytes that are no value of the column's type
        return UNKNOWN
    if nulls is not None and not 0 <= nulls <= rows:
        return UNKNOWN
    if low is None or high is None:
        return ColumnStats(None, None, nulls)
    return ColumnStats(low, high, nulls) if low <= high else ColumnStats(None, None, nulls)  # NaN is in no order
