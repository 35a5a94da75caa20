"""What stands where the input and the models of a job stand, and the plan that is made of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.data.reader import Window
from batchinfer.engines.protocol import Description, Identity, Rows
from batchinfer.errors import InputError
from batchinfer.job.spec import JobSpec
from batchinfer.plan.fingerprint import fingerprint
from batchinfer.plan.plan import Plan, Reading
from batchinfer.plan.shards import Shard
from batchinfer.testing.simulator.bucket import ROOT
from batchinfer.testing.simulator.shape import File, Shape, SimulatedStep

BATCH = 2
"""Rows of a batch."""
_INPUT = pa.schema([("x", pa.int64())])


@functools.cache
def spec_of(job: Shape) -> JobSpec:
    """The job as its file would say it."""
    several = len(job.steps) > 1
    return JobSpec.model_validate(
        {
            "version": 1,
            "name": "simulated",
            "input": {"path": "input.parquet"},
            **({"steps": [_step(s) for s in job.steps]} if several else {"model": _step(job.steps[0])}),
            "output": {
                "path": ROOT,
                "compression": "none",
                **({"columns": list(job.columns), "carry": ["x"]} if several else {}),
            },
            "errors": {"threshold": job.threshold},
            "batching": {"shard": job.shard, "window": job.window},
            "checkpoint": {"interval": job.interval},
            "resources": {"executor": "inline", "cpus": 1, "gpus": 0},
            "run": {} if job.on_removed is None else {"inputs_changed": "extend", "on_removed": job.on_removed},
        }
    )


def _step(step: SimulatedStep) -> dict[str, Any]:
    inputs = {name: name for name in dict.fromkeys(("x", step.reads))}
    said = {"engine": "python", "uri": "simulated:Model", "inputs": inputs, "outputs": {"y": step.writes}}
    if step.name != "model":
        said["name"] = step.name
    return said if step.when is None else {**said, "when": step.when}


@functools.cache
def plan(job: Shape) -> Plan:
    """The plan of a job. Where it is extended, no shard has rows of two files."""
    spec = spec_of(job)
    files = {
        file: InputFile(file.path, file.rows, str(file.revision), f"{file.first:064d}", file.rows) for file in job.files
    }
    shards: list[Shard] = []
    row = 0
    for file in job.files:
        for start in range(0, file.rows, job.shard):
            span = RowRange(files[file], start, min(job.shard, file.rows - start))
            shards.append(Shard(len(shards), row, (span,)))
            row += span.rows
    reading = Reading(_INPUT, None, ("x",), None, job.window)
    models = {step.name: Identity(f"{job.version}.{job.repair}") for step in job.steps}
    mark = fingerprint(spec, tuple(files.values()), models)
    return Plan(spec, mark, reading, tuple(files.values()), tuple(shards), 1)


def file_of(planned: InputFile) -> File:
    """The file that a plan names."""
    number, revision = divmod(int(planned.footer), File(1, 0, 0).first)
    return File(number, revision // File(0, 1, 0).first, planned.rows)


def rows_of(ranges: Sequence[RowRange]) -> list[int]:
    """The rows of a shard."""
    return [file_of(r.file).first + r.start + n for r in ranges for n in range(r.rows)]


class Input:
    """Stands where the reader of Parquet files stands.

    Args:
        job: whose rows are read.
        present: the files that the input has now.

    """

    def __init__(self, job: Shape, present: Callable[[], Sequence[File]]) -> None:
        self._job, self._present = job, present

    def windows(self, ranges: Sequence[RowRange], size: int) -> Iterator[Window]:
        """The windows of a shard. Raises InputError where a file is no longer as it was planned."""
        rows = rows_of(ranges)
        for first in range(0, len(rows), size):
            if changed := {file_of(r.file) for r in ranges}.difference(self._present()):
                raise InputError(f"{min(f.path for f in changed)} has changed since it was planned")
            span = rows[first : first + size]
            kept = [n for n, row in enumerate(span) if row not in self._job.filtered]
            table = pa.table([pa.array([span[n] for n in kept], pa.int64())], schema=_INPUT)
            yield Window(first, len(span), table, np.array([first + n for n in kept], np.int64), tuple(ranges))


class _Prepared:
    lengths = None
    truncated = None
    row_bytes = None

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: Rows) -> NDArray[np.float64]:
        return self._rows[rows]


class Model:
    """Stands where the engine of a step stands. A call takes its time, in which anything may happen."""

    def __init__(
        self,
        job: Shape,
        step: int,
        passes: Callable[[float], None],
        seen: Callable[[int], None],
        noise: Random | None,
    ) -> None:
        self._job, self._step, self._passes, self._seen, self._noise = job, step, passes, seen, noise

    def load(self, device: str, precision: str, threads: int) -> Description:
        """See Engine."""
        del threads
        return Description({"y": pa.float64()}, precision, device)

    def prepare(self, rows: pa.Table) -> Any:
        """See Engine."""
        read = rows[self._job.steps[self._step].reads]
        return _Prepared(np.column_stack([rows["x"].to_numpy(), read.to_numpy()]).astype(np.float64))

    def infer(self, batch: NDArray[np.float64]) -> NDArray[np.float64]:
        """See Engine."""
        self._passes(self._job.pace)
        self._seen(len(batch))
        rows = [int(row) for row in batch[:, 0]]
        bad = sorted(self._job.raising(self._step).intersection(rows))
        if bad:
            raise ValueError(f"row {bad[0]} is poison")
        invalid = self._job.special(self._step).invalid
        reads = batch[:, 1].tolist()
        values = [
            np.nan if row in invalid else self._job.answer(self._step, row, read)
            for row, read in zip(rows, reads, strict=True)
        ]
        noise = self._noise.random() / 4 if self._noise else 0.0
        return np.array(values) + noise

    def finish(self, outputs: NDArray[np.float64]) -> Mapping[str, pa.Array]:
        """See Engine."""
        return {"y": pa.array(outputs)}
