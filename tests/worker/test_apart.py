"""A worker whose model is in another worker, both in this process: what passes between them is packed as on its way."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.engines.protocol import Description, Engine
from batchinfer.engines.travel import pack, unpack
from batchinfer.errors import ModelLostError
from batchinfer.job import load
from batchinfer.plan.plan import Plan, make_plan
from batchinfer.storage.paths import JobPaths
from batchinfer.worker.context import Context, Done, Failed, Failure, Outcome
from batchinfer.worker.serving import Answer
from batchinfer.worker.watched import Counted
from batchinfer.worker.worker import Worker

SOURCE = """
from batchinfer.errors import DeviceError

CALLS = []


class Model:
    def __call__(self, batch):
        CALLS.append(len(batch["x"]))
        if len(batch["x"]) > 3:
            raise MemoryError("it takes three rows")
        if -1 in batch["x"]:
            raise DeviceError("the device is broken")
        if -2 in batch["x"]:
            raise ValueError("a bad row")
        return {"y": [x + 1 for x in batch["x"]]}
"""


class Sent:
    def __init__(self, answer: Answer | None) -> None:
        self._answer = answer

    def answer(self) -> Answer:
        if self._answer is None:
            raise ModelLostError("the model actor 1 ended")
        return self._answer


class ModelsHere:
    """The models of a worker in this process; `lost` is how many batches its end takes with it."""

    def __init__(self, holder: Worker, lost: int = 0) -> None:
        self._holder, self._lost = holder, lost

    def opened(self) -> tuple[Engine, Description]:
        opened: tuple[Engine, Description] = unpack(pack(self._holder.without_model))
        return opened

    def send(self, shard: int, batch: Counted) -> Sent:
        assert self._holder.serving is not None
        if self._lost:
            self._lost -= 1
            return Sent(None)
        return Sent(self._holder.serving.infer(shard, pack(batch)))


def planned(folder: Path, x: list[int]) -> Plan:
    (folder / "limited.py").write_text(SOURCE)
    pq.write_table(pa.table({"x": pa.array(x, pa.int64())}), folder / "in.parquet")
    outputs: dict[str, Any] = {"y": {"column": "y", "type": "int64"}}
    fields = {
        "version": 1,
        "name": "limited",
        "code": [str(folder)],
        "input": {"path": str(folder / "in.parquet")},
        "model": {"engine": "python", "uri": "limited:Model", "inputs": {"x": "x"}, "outputs": outputs},
        "batching": {"rows": 4, "window": 20, "shard": 20},
        "output": {"path": str(folder / "out")},
    }
    return make_plan(load.from_fields(fields))


def outcomes(folder: Path, x: list[int], times: int = 1, lost: int = 0) -> tuple[list[Outcome], Worker]:
    """What comes of the job's shards, each tried so many times while it fails; and the worker that held the model."""
    plan = planned(folder, x)
    context = Context(plan.spec, plan.reading, JobPaths("0123abcd"), threads=1, gpus=0)
    holder = Worker(context, serves="model")
    settings = holder.measure(plan.shards)
    holder.start(settings)
    worker = Worker(context, 1, {"model": ModelsHere(holder, lost)})
    worker.start(settings)
    came: list[Outcome] = []
    for shard in plan.shards:
        for _ in range(times):
            future = worker.submit(shard)
            concurrent.futures.wait([future], 60)
            came.append(future.result(0))
            if isinstance(came[-1], Done):
                break
    worker.close()
    holder.close()
    return came, holder


def test_a_batch_that_does_not_fit_where_the_model_is_is_halved_and_the_size_kept(tmp_path: Path) -> None:
    (outcome,), _ = outcomes(tmp_path, list(range(20)))
    assert isinstance(outcome, Done)
    assert outcome.part.counts.succeeded == 20
    assert 1 <= outcome.usage.total.halved <= 5
    assert outcome.usage.seconds.infer > 0


def test_a_bad_row_is_found_where_the_model_is_elsewhere(tmp_path: Path) -> None:
    (outcome,), _ = outcomes(tmp_path, [*range(9), -2, *range(10, 20)])
    assert isinstance(outcome, Done)
    assert (outcome.part.counts.succeeded, outcome.part.counts.dead) == (19, 1)


def test_a_shard_goes_on_after_the_process_that_held_its_model_was_lost(tmp_path: Path) -> None:
    (first, second), _ = outcomes(tmp_path, list(range(20)), times=2, lost=1)
    assert isinstance(first, Failed)
    assert (first.failure, first.error) == (Failure.LOST, "the model actor 1 ended")
    assert isinstance(second, Done)
    assert second.part.counts.succeeded == 20


def test_a_broken_device_is_the_fault_of_its_own_batch_and_is_told(tmp_path: Path) -> None:
    (outcome,), holder = outcomes(tmp_path, [*range(19), -1])
    assert isinstance(outcome, Failed)
    assert outcome.failure is Failure.POISONED
    assert holder.progress().broken == "the device is broken"
