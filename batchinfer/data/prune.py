"""Whether a row group can hold a row for which a SQL condition is true, judged from its statistics alone.

Every answer errs towards yes. The traps: NaN is in no statistics, yet above every number for polars; a literal may be cast to
the column's type or the column to the literal's, so only types that compare exactly are judged, and decimals with a
margin; a bound of a string may be cut short by its writer.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from batchinfer.data.statistics import UNKNOWN, ColumnStats

_NO_VALUE = object()
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIMESTAMP = re.compile(rf"{_DATE.pattern}[ T][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(\.[0-9]{{3}}|\.[0-9]{{6}})?")
_EXACT_INTEGER = 2**53
_FLIPPED = {"GT": "LT", "LT": "GT", "GTE": "LTE", "LTE": "GTE", "EQ": "EQ", "NEQ": "NEQ"}
_NEGATED = {"GT": "LTE", "LTE": "GT", "LT": "GTE", "GTE": "LT", "EQ": "NEQ", "NEQ": "EQ"}


def parse(sql: str) -> Any:
    """The condition as a sqlglot tree; None where sqlglot can't read it, which means no pruning."""
    import sqlglot

    try:
        return sqlglot.parse_one(sql)
    except (sqlglot.errors.SqlglotError, RecursionError):
        return None


def looks_across_rows(tree: Any) -> bool:
    """Whether the condition holds an aggregate, a window or a query."""
    from sqlglot import exp

    return tree is not None and tree.find(exp.AggFunc, exp.Window, exp.Query) is not None


def may_match(tree: Any, statistics: Mapping[str, ColumnStats], schema: pa.Schema, rows: int) -> bool:
    """See Condition.may_match. `schema` holds the types that polars compares."""
    if rows == 0:
        return False
    try:
        return tree is None or _Judge(statistics, schema, rows).may_be(tree, wanted=True)
    except RecursionError:
        return True


class _Judge:
    """Answers `may some row give `wanted` for this node` from the top of the tree down."""

    def __init__(self, statistics: Mapping[str, ColumnStats], schema: pa.Schema, rows: int) -> None:
        self._statistics = statistics
        self._schema = schema
        self._rows = rows

    def may_be(self, node: Any, *, wanted: bool) -> bool:
        """Whether the node may be `wanted` for some row; True for a node that isn't understood."""
        from sqlglot import exp

        kind = type(node).__name__
        if isinstance(node, exp.Paren):
            return self.may_be(node.this, wanted=wanted)
        if isinstance(node, exp.Not):
            return self.may_be(node.this, wanted=not wanted)
        if isinstance(node, (exp.And, exp.Or)):
            sides = (self.may_be(side, wanted=wanted) for side in (node.left, node.right))
            return all(sides) if isinstance(node, exp.And) == wanted else any(sides)
        if isinstance(node, exp.Column):
            return self._compare("EQ", node, wanted)
        if kind in _FLIPPED:
            return self._comparison(kind if wanted else _NEGATED[kind], node.this, node.expression)
        if isinstance(node, exp.Between):  # polars knows no SYMMETRIC
            return self._between(node, wanted=wanted)
        if isinstance(node, exp.In):
            return self._among(node, wanted=wanted)
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            return self._null(node.this, wanted=wanted)
        return True

    def _comparison(self, kind: str, left: Any, right: Any) -> bool:
        value = _literal(right)
        if value is not _NO_VALUE:
            return self._compare(kind, left, value)
        value = _literal(left)
        return value is _NO_VALUE or self._compare(_FLIPPED[kind], right, value)

    def _compare(self, kind: str, column: Any, value: Any) -> bool:
        """Whether `column kind value` may be true for some row."""
        name = _name(column)
        index = self._schema.get_field_index(name) if name is not None else -1
        if index < 0:
            return True
        stats = self._statistics.get(str(name), UNKNOWN)
        if stats.nulls == self._rows:
            return False
        dtype = self._schema.field(index).type
        if stats.low is None or stats.high is None or not _comparable(dtype, value, stats):
            return True
        floating, decimal = pt.is_floating(dtype), pt.is_decimal(dtype)
        text = isinstance(value, str)
        low, high = _around(stats, dtype) if decimal else (stats.low, stats.high)
        if pt.is_timestamp(dtype):
            value = _midnight(value)
        if kind == "EQ":
            return bool(low <= value and (value <= high or (text and value.startswith(high))))
        if kind == "NEQ":  # around a decimal's bounds there is always more than one number
            return text or floating or not low == high == value
        if kind in ("LT", "LTE"):
            return bool(low < value if kind == "LT" else low <= value)
        if floating:
            return True
        if text and value.startswith(high):
            return True
        return bool(high > value if kind == "GT" else high >= value)

    def _between(self, node: Any, *, wanted: bool) -> bool:
        low, high = node.args["low"], node.args["high"]
        if wanted:
            return self._comparison("GTE", node.this, low) and self._comparison("LTE", node.this, high)
        return self._comparison("LT", node.this, low) or self._comparison("GT", node.this, high)

    def _among(self, node: Any, *, wanted: bool) -> bool:
        if node.args.get("query") or node.args.get("unnest") or node.args.get("field"):
            return True
        members = [_literal(member) for member in node.expressions]
        if not members or any(m is _NO_VALUE for m in members):
            return True
        if wanted:
            return any(self._compare("EQ", node.this, m) for m in members)
        return all(self._compare("NEQ", node.this, m) for m in members)

    def _null(self, column: Any, *, wanted: bool) -> bool:
        name = _name(column)
        if name is None or name not in self._schema.names:
            return True
        nulls = self._statistics.get(name, UNKNOWN).nulls
        return nulls is None or (nulls > 0 if wanted else nulls < self._rows)


def _name(node: Any) -> str | None:
    """The name of a plain column; None for anything else, also for `table.column`, which may be a struct's field."""
    from sqlglot import exp

    if isinstance(node, exp.Paren):
        return _name(node.this)
    return str(node.name) if isinstance(node, exp.Column) and not node.table else None


def _literal(node: Any) -> Any:
    """The value of a literal, or _NO_VALUE."""
    from sqlglot import exp

    if isinstance(node, exp.Paren):
        return _literal(node.this)
    if isinstance(node, exp.Boolean):
        return bool(node.this)
    if isinstance(node, exp.Neg):
        value = _literal(node.this)
        return -value if isinstance(value, (int, float)) and not isinstance(value, bool) else _NO_VALUE
    if isinstance(node, exp.Cast):
        return _moment(node)
    if not isinstance(node, exp.Literal):
        return _NO_VALUE
    text = str(node.this)
    if node.is_string:
        return text
    if text.isascii() and text.isdigit():
        return int(text) if len(text) < 20 else _NO_VALUE
    try:
        value = float(text)
    except ValueError:
        return _NO_VALUE
    return value if math.isfinite(value) else _NO_VALUE


def _moment(node: Any) -> Any:
    """The value of a DATE or a TIMESTAMP without time zone, written in full."""
    from sqlglot import exp

    if not (isinstance(node.this, exp.Literal) and node.this.is_string) or node.to.expressions:
        return _NO_VALUE
    text, kind = str(node.this.this), node.to.this
    try:
        if kind == exp.DataType.Type.DATE and _DATE.fullmatch(text):
            return datetime.date.fromisoformat(text)
        if kind in (exp.DataType.Type.TIMESTAMP, exp.DataType.Type.DATETIME) and _TIMESTAMP.fullmatch(text):
            return datetime.datetime.fromisoformat(text)
    except ValueError:
        pass
    return _NO_VALUE


def _midnight(value: datetime.date) -> datetime.datetime:
    """A date as polars compares it with a timestamp."""
    return value if isinstance(value, datetime.datetime) else datetime.datetime.combine(value, datetime.time())


def _around(stats: ColumnStats, dtype: pa.Decimal128Type) -> tuple[float, float]:
    """Numbers outside the bounds of a decimal column, by more than what comparing it with a literal may round."""
    low, high = float(stats.low), float(stats.high)
    margin = 10.0**-dtype.scale + 1e-9 * max(abs(low), abs(high))
    return low - margin, high + margin


def _comparable(dtype: pa.DataType, value: Any, stats: ColumnStats) -> bool:
    """Whether polars compares this column with this literal exactly as Python compares the statistics with it."""
    bounds = (stats.low, stats.high)
    if pt.is_boolean(dtype):
        return isinstance(value, bool) and all(isinstance(b, bool) for b in bounds)
    if isinstance(value, bool):
        return False
    if pt.is_integer(dtype):
        return _is(int, value, *bounds) and _fits(value, dtype)
    if pt.is_floating(dtype):
        return all(_is(int, v) or isinstance(v, float) for v in (value, *bounds)) and _exact(value, dtype)
    if pt.is_string(dtype) or pt.is_large_string(dtype):
        return _is(str, value, *bounds)
    if pt.is_decimal(dtype):
        return (
            all(isinstance(b, Decimal) for b in bounds)
            and isinstance(value, (int, float))
            and abs(value) <= _EXACT_INTEGER
        )
    if pt.is_timestamp(dtype):
        return _is_compared_whole(dtype, value) and all(type(b) is datetime.datetime for b in bounds)
    return bool(pt.is_date32(dtype)) and all(type(v) is datetime.date for v in (value, *bounds))


def _is_compared_whole(dtype: pa.TimestampType, value: Any) -> bool:
    """Whether polars rounds neither the column nor the literal when it compares them: it takes the coarser of both units."""
    if dtype.tz is not None or not isinstance(value, datetime.date):
        return False
    return dtype.unit == "us" or (dtype.unit == "ms" and _midnight(value).microsecond % 1000 == 0)


def _is(kind: type, *values: Any) -> bool:
    return all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def _fits(value: int, dtype: pa.DataType) -> bool:
    bits = int(dtype.bit_width)
    if pt.is_signed_integer(dtype):
        return bool(-(2 ** (bits - 1)) <= value < 2 ** (bits - 1))
    return bool(0 <= value < min(2**bits, 2**63))


def _exact(value: float, dtype: pa.DataType) -> bool:
    """Whether the literal is the same number in the column's type."""
    if abs(value) > _EXACT_INTEGER:
        return False
    import numpy as np

    return bool(pt.is_float64(dtype) or (pt.is_float32(dtype) and float(np.float32(value)) == value))
