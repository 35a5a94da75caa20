"""Expressions in polars SQL that look at one row at a time: conditions and derived columns."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from batchinfer.data import prune
from batchinfer.data.schema import nearest
from batchinfer.errors import InputError

_ACROSS_ROWS = {"Agg", "Over", "Window", "SubPlan", "Len", "Explode", "Gather", "Sort", "SortBy", "Slice"}


class Expression:
    """One expression.

    Args:
        sql: its text.
        where: the key of the job file, for messages.
        what: it should be, for messages.

    Raises InputError where the text is no single expression, or looks at more than one row at a time.

    """

    def __init__(self, sql: str, where: str, what: str = "an expression") -> None:
        import polars as pl

        self.sql, self.where = sql, where
        try:
            self._expression = pl.sql_expr(sql).meta.undo_aliases()
        except pl.exceptions.PolarsError as e:
            raise InputError(f"{where}: {sql!r} is not {what} in SQL: {first_line(e)}") from e
        self.tree = prune.parse(sql)
        """As `prune` has it."""
        if set(_nodes(self._expression)) & _ACROSS_ROWS or prune.looks_across_rows(self.tree):
            raise InputError(
                f"{where}: {sql!r} needs several rows at a time (an aggregate, window or subquery); it may look at one row only"
            )
        self.columns: tuple[str, ...] = tuple(dict.fromkeys(self._expression.meta.root_names()))
        """Names used, in order of appearance."""

    def type(self, schema: pa.Schema) -> pa.DataType:
        """Of what it gives on columns of these types.

        Raises InputError where a column is unknown, or the types don't go together.
        """
        import polars as pl

        for name in self.columns:
            if name not in schema.names:
                raise InputError(f"{self.where}: there is no column {name!r}{nearest(name, schema.names)}")
        used = pa.schema([schema.field(name) for name in self.columns])
        try:
            return self.values(used.empty_table()).type
        except (pl.exceptions.PolarsError, pa.ArrowException, TypeError, ValueError) as e:
            types = ", ".join(f"{f.name}: {f.type}" for f in used)
            raise InputError(f"{self.where}: {self.sql!r} can't be evaluated on {types}: {first_line(e)}") from e

    def values(self, table: pa.Table) -> pa.Array:
        """What it gives for each row. Raises what polars raises on a value."""
        import polars as pl

        columns = table.select(list(self.columns))
        # Without a column, the table has no rows for polars.
        frame = pl.from_arrow(columns) if self.columns else pl.DataFrame({"": [0]})
        assert isinstance(frame, pl.DataFrame)
        found = plain(frame.select(self._expression).to_series().to_arrow())
        return found if self.columns else pa.repeat(found[0], table.num_rows)


def plain(array: Any) -> pa.Array:
    """One array, and of Arrow's plain types: with 32-bit offsets, and without a dictionary."""
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    kind = _plain_type(whole.type)
    return whole if kind == whole.type else whole.cast(kind)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_large_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_type(kind.value_type), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([kind.field(n).with_type(_plain_type(kind.field(n).type)) for n in range(kind.num_fields)])
    return kind


def first_line(error: BaseException) -> str:
    """Of what an error says, as much as a message has room for."""
    return str(error).strip().partition("\n")[0][:300]


def _nodes(expression: Any) -> Iterator[str]:
    """The kinds of node in a polars expression."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack = [json.loads(expression.meta.serialize(format="json"))]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield from node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, str):
            continue
