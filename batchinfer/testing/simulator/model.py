"""The jobs of the histories: rows of every kind, a model that knows them, and what must come of each row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.data.reader import Window
from batchinfer.engines.protocol import Description, Identity, Rows
from batchinfer.job.spec import JobSpec
from batchinfer.plan.fingerprint import fingerprint
from batchinfer.plan.plan import Plan, Reading
from batchinfer.plan.shards import Shard
from batchinfer.testing.simulator.bucket import ROOT

SHAPES = 48
BATCH = 2
"""Rows of a batch."""
OUTPUTS = pa.schema([("y", pa.float64())])
_INPUT = pa.schema([("x", pa.int64())])


@dataclass(frozen=True)
class Shape:
    """A job: how many rows, how they are cut, and which of them are special."""

    number: int
    version: int
    """Of the model: another one is another job."""
    repair: int
    """How far the model was mended since: 1 predicts every other row that is poison to it, 2 all of them. A retry may use it."""
    rows: int
    shard: int
    window: int
    interval: float
    """Seconds between checkpoints."""
    pace: float
    """Seconds of a batch."""
    threshold: int
    poison: frozenset[int]
    invalid: frozenset[int]
    filtered: frozenset[int]

    def y(self, row: int) -> float:
        """What the model says of a row when it isn't noisy."""
        return row * 0.5 + 1000 * self.version

    @property
    def raising(self) -> frozenset[int]:
        """Rows that this model raises on."""
        return frozenset(row for row in self.poison if not self.repair or (self.repair == 1 and row % 2))

    @property
    def dead(self) -> frozenset[int]:
        """Rows that can't be predicted."""
        return (self.raising | self.invalid) - self.filtered


@functools.cache
def shape(number: int, version: int, repair: int = 0) -> Shape:
    """One of the jobs."""
    chance = Random(f"shape {number}")
    long = chance.random() < 0.3
    rows = chance.randint(16, 36) if long else chance.randint(8, 20)
    shard = chance.choice((16, 24)) if long else chance.choice((4, 6, 8, 9))
    kinds = [
        frozenset(n for n in range(rows) if chance.random() < share) if chance.random() < 0.5 else frozenset[int]()
        for share in (0.08, 0.06, 0.15)
    ]
    return Shape(
        number,
        version,
        repair,
        rows,
        shard,
        chance.choice((2, 3, 4)),
        chance.choice((1.0, 2.0, 4.0)),
        chance.choice((0.4, 1.0)),
        -1 if chance.random() < 0.8 else 0,
        *kinds,
    )


@functools.cache
def plan(job: Shape) -> Plan:
    """The plan of a job."""
    spec = JobSpec.model_validate(
        {
            "version": 1,
            "name": "simulated",
            "input": {"path": "input.parquet"},
            "model": {"engine": "python", "uri": "simulated:Model", "inputs": {"x": "x"}, "outputs": {"y": "y"}},
            "output": {"path": ROOT, "compression": "none"},
            "errors": {"threshold": job.threshold},
            "batching": {"shard": job.shard, "window": job.window},
            "checkpoint": {"interval": job.interval},
            "resources": {"executor": "inline", "cpus": 1, "gpus": 0},
        }
    )
    file = InputFile("/input.parquet", 1, "1", "0" * 64, job.rows)
    cuts = range(0, job.rows, job.shard)
    shards = tuple(
        Shard(n, start, (RowRange(file, start, min(job.shard, job.rows - start)),)) for n, start in enumerate(cuts)
    )
    reading = Reading(_INPUT, None, ("x",), None, job.window)
    mark = fingerprint(spec, (file,), {"model": Identity(f"{job.version}.{job.repair}")})
    return Plan(spec, mark, reading, (file,), shards, 1)


class Input:
    """Stands where the reader of Parquet files stands."""

    def __init__(self, job: Shape) -> None:
        self._job = job

    def windows(self, ranges: Sequence[RowRange], size: int) -> Iterator[Window]:
        """The windows of a shard."""
        rows = [r.start + n for r in ranges for n in range(r.rows)]
        for first in range(0, len(rows), size):
            span = rows[first : first + size]
            kept = [n for n, row in enumerate(span) if row not in self._job.filtered]
            table = pa.table([pa.array([span[n] for n in kept], pa.int64())], schema=_INPUT)
            yield Window(first, len(span), table, np.array([first + n for n in kept], np.int64), tuple(ranges))


class _Prepared:
    lengths = None
    truncated = None
    row_bytes = None

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: Rows) -> NDArray[np.int64]:
        return self._rows[rows]


class Model:
    """Stands where an engine stands. A call takes its time, in which anything may happen."""

    def __init__(
        self, job: Shape, step: Callable[[float], None], seen: Callable[[int], None], noise: Random | None
    ) -> None:
        self._job, self._step, self._seen, self._noise = job, step, seen, noise

    def load(self, device: str, precision: str, threads: int) -> Description:
        """See Engine."""
        del threads
        return Description({"y": pa.float64()}, precision, device)

    def prepare(self, rows: pa.Table) -> Any:
        """See Engine."""
        return _Prepared(rows["x"].to_numpy())

    def infer(self, batch: NDArray[np.int64]) -> NDArray[np.float64]:
        """See Engine."""
        self._step(self._job.pace)
        self._seen(len(batch))
        bad = sorted(self._job.raising.intersection(batch.tolist()))
        if bad:
            raise ValueError(f"row {bad[0]} is poison")
        values = [np.nan if row in self._job.invalid else self._job.y(row) for row in batch.tolist()]
        noise = self._noise.random() / 4 if self._noise else 0.0
        return np.array(values) + noise

    def finish(self, outputs: NDArray[np.float64]) -> Mapping[str, pa.Array]:
        """See Engine."""
        return {"y": pa.array(outputs)}
