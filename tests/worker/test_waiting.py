"""What counts as waiting of the device, in `Usage.seconds`."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.executors.inline import InlineExecutor
from batchinfer.storage.store import open_store
from batchinfer.testing.executors import ExecutorContract
from batchinfer.worker.context import Done, Seconds
from batchinfer.worker.inference import Inference
from batchinfer.worker.items import Batch
from batchinfer.worker.worker import Worker
from tests.worker.test_shard_run import context, shard_run, windows

SECONDS = 0.5


class Prepared:
    lengths = truncated = None

    def __len__(self) -> int:
        return 4

    def batch(self, rows: Any) -> Any:
        return rows


class Instant:
    """An engine that takes no time."""

    def infer(self, batch: Any) -> Any:
        return batch


def seconds(worker: Worker, shard: Any) -> Seconds:
    outcome = worker.submit(shard).result(60)
    assert isinstance(outcome, Done), outcome
    return outcome.usage.seconds


def test_a_device_waits_from_the_end_of_one_shard_until_the_next_has_a_batch(tmp_path: Path) -> None:
    contract = ExecutorContract()
    plan = contract.plan(tmp_path, list(range(20)))
    worker = Worker(contract.context(plan))
    worker.start(worker.measure(plan.shards))
    seconds(worker, plan.shards[0])
    time.sleep(SECONDS)
    assert seconds(worker, plan.shards[1]).wait >= 0.9 * SECONDS
    worker.close()


def test_loading_the_model_is_no_waiting(tmp_path: Path) -> None:
    contract = ExecutorContract()
    plan = contract.plan(tmp_path, list(range(10)))
    model = tmp_path / "model_of_contract.py"
    model.write_text(model.read_text().replace("self.delay = delay", f"self.delay = delay; time.sleep({4 * SECONDS})"))
    executor = InlineExecutor(contract.context(plan))
    executor.start(executor.measure(plan.shards))
    executor.submit(plan.shards[0])
    (outcome,) = contract.drain(executor, 1)
    executor.close()
    assert isinstance(outcome, Done), outcome
    assert outcome.usage.seconds.wait < 4 * SECONDS


def test_a_device_that_must_leave_the_cores_to_preparing_waits_and_does_not_compute(tmp_path: Path) -> None:
    cores, step, window = threading.RLock(), context().spec.steps[0], windows()[0]
    run = shard_run(open_store(str(tmp_path)), Future(), context(), engine=Instant())
    rows = np.arange(4)
    batch = Batch(run, run.begin(window), Prepared(), rows, window.ordinals, pa.array(rows))
    held, answered = threading.Event(), threading.Event()

    def prepare() -> None:
        with cores:
            held.set()
            time.sleep(SECONDS)
            assert not answered.is_set()

    preparing = threading.Thread(target=prepare)
    preparing.start()
    held.wait()
    assert len(list(Inference(step, "dead", threading.Event(), lambda: cores).outputs(batch))) == 1
    answered.set()
    preparing.join()
    assert run.usage.seconds.wait >= 0.9 * SECONDS
    assert run.usage.seconds.infer < 0.9 * SECONDS
