"""A worker that holds the model of one step, and sends batches of another step to where its model is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.engines.protocol import Description, Engine
from batchinfer.engines.travel import pack, unpack
from batchinfer.errors import ModelLostError
from batchinfer.job import load
from batchinfer.plan.plan import Plan, make_plan
from batchinfer.storage.paths import JobPaths
from batchinfer.worker.context import Context, Done, Failed, Failure, Share
from batchinfer.worker.serving import Answer
from batchinfer.worker.stages import WINDOWS
from batchinfer.worker.watched import Counted, Watched
from batchinfer.worker.worker import Worker

SOURCE = """
import threading

SEEN = []


class Light:
    def __call__(self, batch):
        SEEN.append(len(batch["x"]))
        return {"y": [x + 1 for x in batch["x"]]}


class Heavy:
    def __call__(self, batch):
        if -2 in batch["x"]:
            raise ValueError("a bad row")
        return {"y": [x * 10 for x in batch["x"]]}
"""


class Sent:
    def __init__(self, models: Models, shard: int, batch: Counted) -> None:
        self._models, self._shard, self._batch = models, shard, batch

    def answer(self) -> Answer:
        models = self._models
        assert models.go_on.wait(30), "nobody let the heavy model go on"
        if models.lost:
            raise ModelLostError("the model actor 1 ended")
        assert models.holder.serving is not None
        return models.holder.serving.infer(self._shard, pack(self._batch))


class Models:
    """The model of a worker in this process, which takes `at_once` batches and answers them once it may go on."""

    def __init__(self, holder: Worker, at_once: int = 2) -> None:
        self.holder, self.go_on, self.lost = holder, threading.Event(), False
        self._taken = threading.Semaphore(at_once)

    def opened(self) -> tuple[Engine, Description]:
        opened: tuple[Engine, Description] = unpack(pack(self.holder.without_model))
        return opened

    def send(self, shard: int, batch: Counted) -> Sent:
        while not self._taken.acquire(timeout=0.05):
            if self.go_on.is_set():
                break
        return Sent(self, shard, batch)


def planned(folder: Path, x: list[int], window: int = 20) -> Plan:
    (folder / "weights.py").write_text(SOURCE)
    pq.write_table(pa.table({"x": pa.array(x, pa.int64())}), folder / "in.parquet")

    def step(name: str, reads: str, uri: str) -> dict[str, Any]:
        outputs = {"y": {"column": name, "type": "int64"}}
        return {"name": name, "engine": "python", "uri": uri, "inputs": {"x": reads}, "outputs": outputs}

    fields = {
        "version": 1,
        "name": "pools",
        "code": [str(folder)],
        "input": {"path": str(folder / "in.parquet")},
        "steps": [step("light", "x", "weights:Light"), step("heavy", "light", "weights:Heavy")],
        "batching": {"rows": window, "window": window, "shard": len(x)},
        "output": {"path": str(folder / "out")},
    }
    return make_plan(load.from_fields(fields))


class Both:
    """A worker that sends, and the one that it sends to."""

    def __init__(self, folder: Path, x: list[int]) -> None:
        self.plan = planned(folder, x)
        shares = {"light": Share(1, 0), "heavy": Share(1, 0)}
        context = Context(self.plan.spec, self.plan.reading, JobPaths("0123abcd"), threads=1, gpus=0, shares=shares)
        self.holder = Worker(context, serves="heavy")
        self.settings = self.holder.measure(self.plan.shards)
        self.holder.start(self.settings)
        self.models = Models(self.holder)
        self.worker = Worker(context, 1, {"heavy": self.models})
        self.worker.start(self.settings)
        import weights

        self.seen: list[int] = weights.SEEN
        self.seen.clear()

    def close(self) -> None:
        self.models.go_on.set()
        self.worker.close()
        self.holder.close()


@pytest.fixture(name="fresh", autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "weights", raising=False)


def test_a_light_step_goes_on_while_the_heavy_one_has_all_that_it_takes(tmp_path: Path) -> None:
    both = Both(tmp_path, [*range(20 * 3 * WINDOWS)])
    future = both.worker.submit(both.plan.shards[0])
    for _ in range(600):
        if len(both.seen) >= WINDOWS:
            break
        threading.Event().wait(0.05)
    ahead = len(both.seen)
    threading.Event().wait(0.3)
    assert len(both.seen) == ahead == WINDOWS, "it goes on as far as there may be windows on their way, and no further"
    both.models.go_on.set()
    outcome = future.result(60)
    assert isinstance(outcome, Done)
    assert outcome.part.counts.succeeded == 20 * 3 * WINDOWS
    assert sum(both.seen) == 20 * 3 * WINDOWS
    both.close()


def test_results_are_those_of_rows_in_order_with_a_bad_one(tmp_path: Path) -> None:
    both = Both(tmp_path, [*range(50), -3, *range(50)])
    both.models.go_on.set()
    outcome = both.worker.submit(both.plan.shards[0]).result(60)
    assert isinstance(outcome, Done)
    assert (outcome.part.counts.succeeded, outcome.part.counts.dead) == (100, 1)
    (part,) = (tmp_path / "out" / "data").glob("*.parquet")
    assert pq.read_table(part)["heavy"].to_pylist() == [(x + 1) * 10 for x in [*range(50), *range(50)]]
    both.close()


def test_a_shard_whose_model_was_lost_after_all_was_read_has_its_outcome(tmp_path: Path) -> None:
    """Nothing comes back then that could tell the writing thread."""
    both = Both(tmp_path, [*range(40)])
    both.models.lost = True
    future = both.worker.submit(both.plan.shards[0])
    for _ in range(600):
        if len(both.seen) == 2:
            break
        threading.Event().wait(0.05)
    threading.Event().wait(0.2)
    both.models.go_on.set()
    outcome = future.result(60)
    assert isinstance(outcome, Failed)
    assert (outcome.failure, outcome.error) == (Failure.LOST, "the model actor 1 ended")
    both.models.lost = False
    assert isinstance(both.worker.submit(both.plan.shards[0]).result(60), Done)
    both.close()


@pytest.mark.parametrize(("device", "calls"), [("cpu", "load load drop"), ("cuda", "load drop load drop")])
def test_a_model_that_is_measured_where_it_is_not_to_be_leaves_a_gpu_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, calls: str
) -> None:
    """On the CPU it leaves once all are measured, so that what each takes can be told."""
    called: list[str] = []
    for name in ("load", "drop"):
        original = getattr(Watched, name)
        monkeypatch.setattr(Watched, name, lambda *given, of=original, name=name: called.append(name) or of(*given))
    monkeypatch.setattr("batchinfer.engines.registry.device_for", lambda *_: device)
    plan = planned(tmp_path, [*range(40)])
    holder = Worker(Context(plan.spec, plan.reading, JobPaths("0123abcd"), threads=1, gpus=0), serves="heavy")
    memory = holder.measure(plan.shards).memory
    assert " ".join(called) == calls
    assert holder.has_loaded
    assert memory is not None
    assert set(memory["steps"]) == {"light", "heavy"}
    holder.close()


def test_who_serves_a_step_holds_its_model_alone_and_can_run_a_whole_shard_in_quarantine(tmp_path: Path) -> None:
    both = Both(tmp_path, [*range(40)])
    assert both.holder.has_loaded
    assert [step.node.name for step in both.holder._steps if step.has_loaded] == ["heavy"]
    assert [step.node.name for step in both.worker._steps if step.is_here] == ["light"]
    outcome = both.holder.submit(both.plan.shards[0], quarantined=True).result(60)
    assert isinstance(outcome, Done)
    assert outcome.part.counts.succeeded == 40
    assert not both.holder.has_loaded
    both.close()
