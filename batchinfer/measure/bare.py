"""The bare loop: what a careful person would write by hand for a job, to compare the runner with."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batchinfer.data.part import PartWriter
from batchinfer.data.reader import Window
from batchinfer.engines.protocol import Engine
from batchinfer.measure.settings import Settings
from batchinfer.pipeline.batching import batches
from batchinfer.pipeline.batching import positions as batch_positions
from batchinfer.pipeline.graph import Graph, Node
from batchinfer.pipeline.passage import Passage, Positions


@dataclass
class LoopSeconds:
    """Where a loop's time went; one thing after the other, so that these add up to its wall clock."""

    read: float = 0.0
    prepare: float = 0.0
    infer: float = 0.0
    write: float = 0.0
    """Finishing outputs and encoding the file."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.read + self.prepare + self.infer + self.write


class BareLoop:
    """Reads a window, prepares it, calls the model on its batches, and writes Parquet into memory: one thing after the other.

    It has the runner's engine, settings, batches and writer, and nothing of what else a runner does: no threads, no checks of
    outputs, no checkpoints, no isolation. A row that raises ends it.

    Args:
        graph: the steps.
        engines: by the step's name, loaded as the settings say.
        settings: the runner's.
        carried: columns of a window that go into the file, in order.
        compression: of the file.
        window: rows of a row group.

    """

    def __init__(
        self,
        graph: Graph,
        engines: Mapping[str, Engine],
        settings: Settings,
        carried: pa.Schema,
        compression: str,
        window: int,
    ) -> None:
        self.seconds = LoopSeconds()
        self.rows = 0
        """Rows that the model saw."""
        self._graph, self._engines, self._settings = graph, engines, settings
        self._carried, self._compression, self._window = carried, compression, window
        self._lap = 0.0

    def warm_up(self, rows: pa.Table) -> None:
        """Call the models on rows that count for nothing, as a runner does when it measures."""
        self._lap = time.perf_counter()
        self._through(rows)
        self.seconds = LoopSeconds()

    def shard(self, windows: Iterable[Window]) -> bytes:
        """Predict the windows of a shard, and give its Parquet file. Raises whatever a row raises."""
        schema = pa.schema([*self._carried, *self._settings.outputs])
        self._lap = time.perf_counter()
        writer = PartWriter(schema, self._compression, self._window)
        for window in windows:
            self._count("read")
            if len(window.table):
                self._predict(window.table, writer)
        self._count("read")
        data = writer.finish({})
        self._count("write")
        return data

    def _predict(self, rows: pa.Table, writer: PartWriter) -> None:
        passage = self._through(rows)
        every = passage.alive
        used = [] if self._graph.step_used is None else [passage.used(every)]
        columns = [
            *rows.select(self._carried.names).columns,
            *passage.select(self._graph.written, every).columns,
            *used,
        ]
        writer.write(pa.Table.from_arrays(columns, schema=pa.schema([*self._carried, *self._settings.outputs])))
        self.rows += len(rows)
        self._count("write")

    def _through(self, rows: pa.Table) -> Passage:
        """The rows with what the steps gave them."""
        passage = Passage(self._graph, rows)
        for node in self._graph.nodes:
            positions, _ = passage.for_step(node)
            self._answer(node, passage, positions)
        return passage

    def _answer(self, node: Node, passage: Passage, positions: Positions) -> None:
        engine, settings = self._engines[node.name], self._settings.steps[node.name]
        if not len(positions):
            passage.give(positions, settings.outputs.empty_table())
            return
        prepared = engine.prepare(passage.rows(node, positions))
        self._count("prepare")
        places, tables = [], []
        for some in batches(len(prepared), prepared.lengths, settings.budget):
            payload = prepared.batch(some)
            self._count("prepare")
            outputs = engine.infer(payload)
            self._count("infer")
            finished = engine.finish(outputs)
            columns = [
                finished[name].cast(field.type) for name, field in zip(node.step.outputs, settings.outputs, strict=True)
            ]
            places.append(batch_positions(some))
            tables.append(pa.Table.from_arrays(columns, schema=settings.outputs))
            self._count("write")
        made, order = pa.concat_tables(tables).combine_chunks(), np.argsort(np.concatenate(places))
        if np.any(order[1:] < order[:-1]):
            made = made.take(pa.array(order))
        passage.give(positions, made)
        self._count("write")

    def _count(self, stage: str) -> None:
        now = time.perf_counter()
        setattr(self.seconds, stage, getattr(self.seconds, stage) + now - self._lap)
        self._lap = now
