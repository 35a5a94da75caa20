"""Steps without a model: columns that are derived from others by a function of the row. Keeps to the engine protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from batchinfer.engines.protocol import Description, Rows

Answer = Callable[[pa.Table], Mapping[str, pa.Array]]
"""Arrays by output name, of as many values as the table has rows."""


class DerivedRows:
    """The rows of one window. See Prepared."""

    lengths = None
    truncated = None
    row_bytes = None

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def batch(self, rows: Rows) -> pa.Table:
        """These rows."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._table.slice(start, max(stop - start, 0))
        return self._table.take(pa.array(rows))


class DerivedEngine:
    """See Engine.

    Args:
        columns: that the function reads.
        outputs: names of what it gives.
        answer: the function; it must take a table without rows, too.

    """

    def __init__(self, columns: tuple[str, ...], outputs: tuple[str, ...], answer: Answer) -> None:
        self._columns, self._outputs, self._answer = columns, outputs, answer

    def load(self, device: str, precision: str, threads: int) -> Description:  # noqa: ARG002 - there is nothing to load
        """See Engine."""
        return Description(dict.fromkeys(self._outputs), "native", "cpu")

    def types(self, schema: pa.Schema) -> Mapping[str, pa.DataType]:
        """Of what it gives on columns of these types. Raises InputError, ModelError where it takes no such columns."""
        given = self._answer(pa.schema([schema.field(name) for name in self._columns]).empty_table())
        return {name: array.type for name, array in given.items()}

    def prepare(self, rows: pa.Table) -> DerivedRows:
        """See Engine."""
        return DerivedRows(rows)

    def infer(self, batch: pa.Table) -> Mapping[str, pa.Array]:
        """See Engine. Raises what the function raises for a row."""
        return self._answer(batch)

    def finish(self, outputs: Mapping[str, pa.Array]) -> Mapping[str, pa.Array]:
        """See Engine."""
        return outputs
