"""The engine in the worker's own process: whatever it is asked for is watched, and it answers as if it were not."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.engines.protocol import Description
from batchinfer.errors import StoppedError
from batchinfer.worker.pace import SILENT_SECONDS, UNKNOWN_SECONDS
from batchinfer.worker.watched import Watched

TIMEOUT = 0.01


class Slow:
    """An engine that looks, in the call that is slow, at what its watch says of it."""

    def __init__(self, slow: str) -> None:
        self.slow, self.watch = slow, Watched(lambda: self, TIMEOUT)
        self.overdue: str | None = None
        self.patience = 0.0

    def _look(self, call: str) -> None:
        if call == self.slow:
            time.sleep(4 * TIMEOUT)
            self.overdue, self.patience = self.watch.paces.overdue, self.watch.paces.patience

    def load(self, device: str, precision: str, threads: int) -> Description:
        self._look("load")
        return Description({}, precision, device)

    def prepare(self, rows: pa.Table) -> Any:
        self._look("prepare")
        return Rows(len(rows))

    def infer(self, batch: Any) -> Any:
        self._look("infer")
        return ("answer", batch)

    def finish(self, outputs: Any) -> Any:
        self._look("finish")
        return {"y": outputs}


class Rows:
    lengths = truncated = None

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, rows: Any) -> Any:
        return rows


@pytest.mark.parametrize("rows", [slice(0, 2), np.array([0, 2])])
@pytest.mark.parametrize(
    ("slow", "overdue"), [("prepare", "preparing"), ("infer", "a call"), ("finish", "finishing"), ("load", None)]
)
def test_each_call_is_watched_and_answers_as_it_does_alone(slow: str, overdue: str | None, rows: Any) -> None:
    engine = Slow(slow)
    watch = engine.watch
    assert watch.load("cpu", "native", 1) == Description({}, "native", "cpu")
    prepared = watch.prepare(pa.table({"x": [1, 2, 3]}))
    assert (len(prepared), prepared.lengths, prepared.truncated) == (3, None, None)
    outputs: Any = watch.finish(watch.infer(prepared.batch(rows)))
    kind, seen = outputs["y"]
    assert kind == "answer"
    assert seen is rows
    assert watch.paces.overdue is None
    assert (engine.overdue or "").startswith(overdue or "")
    assert (engine.overdue is None) == (overdue is None)
    limit = {"prepare": 3 * TIMEOUT, "load": UNKNOWN_SECONDS}.get(slow, TIMEOUT)
    assert engine.patience == limit + SILENT_SECONDS


def test_no_call_is_made_of_a_model_that_is_measured_once_the_worker_is_to_stop() -> None:
    watch = Slow("nothing").watch
    watch.load("cpu", "native", 1)
    watch.stopping = threading.Event()
    prepared = watch.prepare(pa.table({"x": [1, 2, 3]}))
    watch.stopping.set()
    for call in (lambda: watch.prepare(pa.table({"x": [1]})), lambda: watch.infer(prepared.batch(slice(0, 1)))):
        with pytest.raises(StoppedError):
            call()
