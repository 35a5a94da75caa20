"""One step of a shard on its way through a worker: its engine, what was checkpointed of it, and what it cost."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.protocol import Engine
from batchinfer.ledger import chunks
from batchinfer.measure.settings import StepSettings
from batchinfer.pipeline.graph import Node
from batchinfer.worker.context import StepUsage

if TYPE_CHECKING:  # a recall looks at the step's checkpoints
    from batchinfer.worker.recall import Recall


class StepRun:
    """See above. Any thread may count.

    Args:
        node: the step.
        settings: its.
        engine: that answers its rows.
        checkpointed: what chunks hold of it, sorted by ordinal.
        recall: answers of other rows; None where each row has its own.

    """

    def __init__(
        self, node: Node, settings: StepSettings, engine: Engine, checkpointed: pa.Table, recall: Recall | None
    ) -> None:
        self.node, self.settings, self.engine, self.recall = node, settings, engine, recall
        self.schema = chunks.schema(settings.outputs)
        self.checkpointed = checkpointed
        self.known = checkpointed["_ordinal"].to_numpy()
        self.unsaved: list[pa.Table] = []
        self.halved = self.skipped = 0
        """Batches that did not fit into memory, and rows that it failed on and that went on."""
        self._reused = 0
        self._rows = self._batches = self._tokens = self._padded = 0
        self._sizes: Counter[int] = Counter()
        self._seconds = 0.0
        self._counting = threading.Lock()

    def no_rows(self) -> pa.Table:
        """Results of nothing."""
        return self.schema.empty_table()

    def from_checkpoint(self, ordinals: NDArray[np.int64]) -> pa.Table | None:
        """The checkpointed results of these rows; None unless every one of them is there."""
        if not len(self.known) or not len(ordinals):
            return None
        at = np.searchsorted(self.known, ordinals)
        if at.max() >= len(self.known) or not np.array_equal(self.known[at], ordinals):
            return None
        return self.checkpointed.take(pa.array(at))

    def checkpointed_among(self, ordinals: NDArray[np.int64]) -> tuple[NDArray[np.intp], pa.Table]:
        """Positions of those of these rows that are checkpointed, and their results in the same order."""
        at = np.minimum(np.searchsorted(self.known, ordinals), max(0, len(self.known) - 1))
        there = np.flatnonzero(self.known[at] == ordinals) if len(self.known) else np.empty(0, np.intp)
        return there, self.checkpointed.take(pa.array(at[there]))

    def reuse(self, rows: int) -> None:
        """Count rows that have an answer which was there already."""
        with self._counting:
            self._reused += rows

    def count(self, lengths: NDArray[np.int64] | None, rows: NDArray[np.intp]) -> None:
        """Count a batch that the model saw: rows, and tokens with and without padding."""
        some = lengths[rows] if lengths is not None and len(rows) else None
        with self._counting:
            self._batches += 1
            self._sizes[1 << max(0, len(rows) - 1).bit_length()] += 1
            self._rows += len(rows)
            if some is not None:
                self._tokens += int(some.sum())
                self._padded += int(some.max()) * len(rows)

    def add(self, seconds: float) -> None:
        """Count seconds of the model's."""
        with self._counting:
            self._seconds += seconds

    @property
    def usage(self) -> StepUsage:
        """What it cost so far."""
        with self._counting:
            return StepUsage(
                self._rows,
                self._batches,
                self._tokens,
                self._padded,
                self.halved,
                self.skipped,
                self._reused,
                round(self._seconds, 6),
                Counter(self._sizes),
            )
