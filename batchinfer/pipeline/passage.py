"""Rows on their way through the steps: which of them a step takes, and what the steps before have added to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.errors import InputError
from batchinfer.pipeline.graph import Graph, Node

Positions = NDArray[np.intp]
"""Of rows, ascending."""


class Passage:
    """Some rows and the columns that they have by now.

    Args:
        graph: the steps.
        table: the rows as they were read.

    """

    def __init__(self, graph: Graph, table: pa.Table) -> None:
        self._graph, self._table = graph, table
        self._columns: dict[str, pa.Array] = {}
        self._taken: dict[str, NDArray[np.bool_]] = {}
        self._alive: NDArray[np.bool_] | None = None
        """None while all are."""

    def __len__(self) -> int:
        return len(self._table)

    @property
    def alive(self) -> Positions:
        """Rows that no step has failed on."""
        return np.arange(len(self)) if self._alive is None else np.flatnonzero(self._alive)

    def for_step(self, node: Node) -> tuple[Positions, list[tuple[int, InputError]]]:
        """The rows that a step takes, and those whose condition can't be evaluated."""
        mask = np.ones(len(self), np.bool_) if self._alive is None else self._alive.copy()
        for name in node.before:
            if name in self._taken:
                mask &= ~self._taken[name]
        failed: list[tuple[int, InputError]] = []
        if node.condition is not None and mask.any():
            mask, failed = self._meeting(node, np.flatnonzero(mask))
        if node.step.when is not None:
            self._taken[node.name] = mask
        return np.flatnonzero(mask), failed

    def _meeting(self, node: Node, rows: Positions) -> tuple[NDArray[np.bool_], list[tuple[int, InputError]]]:
        assert node.condition is not None
        mask = np.zeros(len(self), np.bool_)
        columns = list(node.condition.columns)
        try:
            mask[rows] = np.asarray(node.condition.mask(self.select(columns, rows)))
        except InputError:
            failed = []
            for row in rows:
                try:
                    mask[row] = node.condition.mask(self.select(columns, np.array([row])))[0].as_py()
                except InputError as e:
                    failed.append((int(row), e))
            return mask, failed
        return mask, []

    def rows(self, node: Node, positions: Positions) -> pa.Table:
        """What a step is given of some rows: the columns that it reads."""
        return self.select(node.reads, positions)

    def select(self, columns: Sequence[str], positions: Positions) -> pa.Table:
        """Columns of some rows, computed ones among them."""
        if not columns:  # a table without columns has no rows
            return pa.table({"": positions})
        known = [self._columns[name] if name in self._columns else self._table.column(name) for name in columns]
        table = pa.table(known, list(columns))
        return table if len(positions) == len(self) else table.take(pa.array(positions)).combine_chunks()

    def give(self, positions: Positions, columns: pa.Table) -> None:
        """Add what a step gave for some rows; others keep what an alternative gave them, or have nulls."""
        for name, column in zip(columns.column_names, columns.columns, strict=True):
            values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            before = self._columns.get(name)
            if before is not None and not len(positions):
                continue
            if len(positions) == len(self):
                self._columns[name] = values
                continue
            index = np.full(len(self), -1, np.int64)
            if before is not None:
                values = pa.concat_arrays([before, values])
                index = np.arange(len(self))
                index[positions] = len(self) + np.arange(len(positions))
            else:
                index[positions] = np.arange(len(positions))
            self._columns[name] = values.take(pa.array(index, mask=index < 0))

    def drop(self, positions: Positions) -> None:
        """A step has failed on these rows: no other sees them."""
        if self._alive is None:
            self._alive = np.ones(len(self), np.bool_)
        self._alive[positions] = False

    def used(self, positions: Positions) -> pa.Array:
        """Names of the steps with a `when` that took each of some rows, in running order."""
        names = [
            np.where(self._taken[n.name][positions], n.name, "") for n in self._graph.nodes if n.name in self._taken
        ]
        return pa.array(
            ["+".join(filter(None, some)) for some in zip(*names, strict=True)] if names else [""] * len(positions),
            pa.string(),
        )
