"""Wrong ways of a window from one step to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from batchinfer.pipeline.graph import Node
from batchinfer.pipeline.passage import Passage
from batchinfer.testing.simulator.mutants.registry import mutant
from batchinfer.worker.window_rows import WindowRows


@mutant
def a_step_takes_every_row() -> Iterator[None]:
    """Whatever its `when`."""

    def for_step(self: Passage, node: Node) -> tuple[Any, list[Any]]:
        mask = np.ones(len(self), np.bool_) if self._alive is None else self._alive.copy()
        if node.step.when is not None:
            self._taken[node.name] = mask
        return np.flatnonzero(mask), []

    with mock.patch.object(Passage, "for_step", for_step):
        yield


@mutant
def dead_rows_go_on() -> Iterator[None]:
    """A row that a step failed on comes to the next one, and may die again."""
    right = WindowRows.leave

    def leave(self: WindowRows, columns: Sequence[str], schema: pa.Schema, *, skip: bool) -> int:
        del skip
        return right(self, columns, schema, skip=True)

    with mock.patch.object(WindowRows, "leave", leave):
        yield
