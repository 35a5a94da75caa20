"""The job's `where`: an exact filter by polars, and a cautious answer from statistics whether a row group can match."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from batchinfer.data import prune
from batchinfer.data.schema import nearest
from batchinfer.data.statistics import ColumnStats
from batchinfer.errors import InputError

_ACROSS_ROWS = {"Agg", "Over", "Window", "SubPlan", "Len", "Explode", "Gather", "Sort", "SortBy", "Slice"}


class Where:
    """A condition in polars SQL. Null is false.

    Raises:
        InputError: the text is no single condition, or it looks at more than one row at a time.

    """

    def __init__(self, sql: str) -> None:
        import polars as pl

        self.sql = sql
        try:
            self._expression = pl.sql_expr(sql).meta.undo_aliases()
        except pl.exceptions.PolarsError as e:
            raise InputError(f"input.where: {sql!r} is not a condition in SQL: {_first_line(e)}") from e
        nodes = set(_nodes(self._expression))
        self._tree = prune.parse(sql)
        if nodes & _ACROSS_ROWS or prune.looks_across_rows(self._tree):
            raise InputError(
                f"input.where: {sql!r} needs several rows at a time (an aggregate, window or subquery); it may look at one row only"
            )
        self.columns: tuple[str, ...] = tuple(dict.fromkeys(self._expression.meta.root_names()))
        """Names used, in order of appearance."""

    def check(self, schema: pa.Schema) -> None:
        """Check the condition against the unified schema.

        Raises:
            InputError: a column is unknown, the types don't go together, or the result isn't true or false.

        """
        import polars as pl

        for name in self.columns:
            if name not in schema.names:
                raise InputError(f"input.where: no input file has the column {name!r}{nearest(name, schema.names)}")
        used = pa.schema([schema.field(name) for name in self.columns])
        try:
            kind = self._evaluate(used.empty_table(), self._expression).dtype
        except (pl.exceptions.PolarsError, pa.ArrowException, TypeError, ValueError) as e:
            types = ", ".join(f"{f.name}: {f.type}" for f in used)
            raise InputError(f"input.where: {self.sql!r} can't be evaluated on {types}: {_first_line(e)}") from e
        if kind != pl.Boolean:
            raise InputError(f"input.where: {self.sql!r} gives {kind}, not true or false; compare it with something")

    def mask(self, table: pa.Table) -> pa.BooleanArray:
        """Which rows of a table of the unified schema match, exactly; no nulls.

        Raises:
            InputError: a value can't be evaluated, such as text that a CAST refuses.

        """
        import polars as pl

        try:
            found = self._evaluate(table, self._expression.fill_null(False))
        except pl.exceptions.PolarsError as e:
            raise InputError(
                f"input.where: {self.sql!r} failed on a row: {_first_line(e)}; TRY_CAST gives null where CAST fails"
            ) from e
        if not self.columns:
            return pa.repeat(bool(found[0]), table.num_rows)
        return _single(found.to_arrow())

    def may_match(self, statistics: Mapping[str, ColumnStats], schema: pa.Schema, rows: int) -> bool:
        """Whether some of `rows` rows may match; False only where the statistics prove that none does.

        Args:
            statistics: by column; one that isn't there is unknown.
            schema: the types of the statistics, which may be narrower than those of the unified schema.
            rows: in the row group.

        """
        return prune.may_match(self._tree, statistics, schema, rows)

    def _evaluate(self, table: pa.Table, expression: Any) -> Any:
        """The expression as a polars series; only the columns that it uses go to polars."""
        import polars as pl

        frame = pl.from_arrow(table.select(list(self.columns))) if self.columns else pl.DataFrame({"": [0]})
        assert isinstance(frame, pl.DataFrame)
        return frame.select(expression).to_series()


def _single(array: Any) -> pa.BooleanArray:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


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


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
