"""Conditions on rows, in SQL: an exact filter by polars, and a cautious answer from statistics whether a row group can match."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.data import prune
from batchinfer.data.expressions import Expression, first_line
from batchinfer.data.statistics import ColumnStats
from batchinfer.errors import InputError


class Where:
    """A condition in polars SQL. Null is false.

    Args:
        sql: its text.
        where: the key of the job file, for messages.

    Raises:
        InputError: the text is no single condition, or it looks at more than one row at a time.

    """

    def __init__(self, sql: str, where: str = "input.where") -> None:
        self.sql, self._where = sql, where
        self._expression = Expression(sql, where, "a condition")
        self.columns = self._expression.columns
        """Names used, in order of appearance."""

    def check(self, schema: pa.Schema) -> None:
        """Check the condition against the types of the columns.

        Raises:
            InputError: a column is unknown, the types don't go together, or the result isn't true or false.

        """
        kind = self._expression.type(schema)
        if not pa.types.is_boolean(kind):
            raise InputError(f"{self._where}: {self.sql!r} gives {kind}, not true or false; compare it with something")

    def mask(self, table: pa.Table) -> pa.BooleanArray:
        """Which rows of a table match, exactly; no nulls.

        Raises:
            InputError: a value can't be evaluated, such as text that a CAST refuses.

        """
        import polars as pl

        try:
            return pc.fill_null(self._expression.values(table), False)
        except pl.exceptions.PolarsError as e:
            raise InputError(
                f"{self._where}: {self.sql!r} failed on a row: {first_line(e)}; TRY_CAST gives null where CAST fails"
            ) from e

    def may_match(self, statistics: Mapping[str, ColumnStats], schema: pa.Schema, rows: int) -> bool:
        """Whether some of `rows` rows may match; False only where the statistics prove that none does.

        Args:
            statistics: by column; one that isn't there is unknown.
            schema: the types of the statistics, which may be narrower than those of the unified schema.
            rows: in the row group.

        """
        return prune.may_match(self._expression.tree, statistics, schema, rows)
