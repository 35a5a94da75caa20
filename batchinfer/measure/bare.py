"""The bare loop: what a careful person would write by hand for a job, to compare the runner with."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batchinfer.data.part import PartWriter
from batchinfer.data.reader import Window
from batchinfer.engines.protocol import Engine
from batchinfer.measure.settings import Settings
from batchinfer.pipeline.batching import batches, positions


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
        engine: loaded as the settings say.
        settings: the runner's.
        carried: columns of a window that go into the file, in order.
        inputs: columns that the model is given.
        outputs: the model's names of what it gives, in the order of the settings' columns.
        compression: of the file.
        window: rows of a row group.

    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        carried: pa.Schema,
        inputs: list[str],
        outputs: list[str],
        compression: str,
        window: int,
    ) -> None:
        self.seconds = LoopSeconds()
        self.rows = 0
        """Rows that the model saw."""
        self._engine, self._settings, self._inputs, self._outputs = engine, settings, inputs, outputs
        self._carried, self._compression, self._window = carried, compression, window
        self._lap = 0.0

    def warm_up(self, rows: pa.Table) -> None:
        """Call the model on rows that count for nothing, as a runner does when it measures."""
        prepared = self._engine.prepare(rows.select(self._inputs))
        for some in batches(len(prepared), prepared.lengths, self._settings.budget):
            self._engine.finish(self._engine.infer(prepared.batch(some)))

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
        prepared = self._engine.prepare(rows.select(self._inputs))
        self._count("prepare")
        places, tables = [], []
        for some in batches(len(prepared), prepared.lengths, self._settings.budget):
            payload = prepared.batch(some)
            self._count("prepare")
            outputs = self._engine.infer(payload)
            self._count("infer")
            finished = self._engine.finish(outputs)
            columns = [
                finished[name].cast(field.type)
                for name, field in zip(self._outputs, self._settings.outputs, strict=True)
            ]
            places.append(positions(some))
            tables.append(pa.Table.from_arrays(columns, schema=self._settings.outputs))
            self._count("write")
        made = pa.concat_tables(tables).combine_chunks()
        order = np.argsort(np.concatenate(places))
        if np.any(order[1:] < order[:-1]):
            made = made.take(pa.array(order))
        carried = rows.select(self._carried.names)
        schema = pa.schema([*self._carried, *self._settings.outputs])
        writer.write(pa.Table.from_arrays([*carried.columns, *made.columns], schema=schema))
        self.rows += len(rows)
        self._count("write")

    def _count(self, stage: str) -> None:
        now = time.perf_counter()
        setattr(self.seconds, stage, getattr(self.seconds, stage) + now - self._lap)
        self._lap = now
