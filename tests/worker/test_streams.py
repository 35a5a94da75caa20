"""Several calls of the model at a time: the same rows, files and dead letters as one after the other."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.errors import ModelError
from batchinfer.executors.inline import InlineExecutor
from batchinfer.job import load
from batchinfer.measure.settings import StepSettings
from batchinfer.pipeline.batching import Budget
from batchinfer.plan.plan import Plan, make_plan
from batchinfer.storage.paths import JobPaths
from batchinfer.worker.context import Context, Done, Failed, Failure, Outcome
from batchinfer.worker.streams import Streams
from tests.settings import of_one

MODEL = """
import time
import torch

class Careless(torch.nn.Module):
    '''Keeps its input in an attribute while it runs; odd batches take longer than even ones.'''

    def __init__(self, broken=False):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(3.0))
        self.broken = broken

    def forward(self, x):
        if self.broken:
            return x, x
        self.kept = x
        time.sleep(0.004 if int(x[0]) % 20 else 0.001)
        if (self.kept == 13).any():
            raise ValueError("thirteen")
        return self.kept * self.w
"""


def planned(folder: Path, output: str = "out", **init: bool) -> Plan:
    (folder / "careless.py").write_text(MODEL)
    pq.write_table(pa.table({"x": np.arange(400, dtype=np.float32)}), folder / "in.parquet")
    fields = {
        "version": 1,
        "name": "streams",
        "code": [str(folder)],
        "input": {"path": str(folder / "in.parquet")},
        "model": {
            "engine": "torch",
            "uri": "careless:Careless",
            "inputs": {"x": "x"},
            "outputs": {"y": "y"},
            "precision": "fp32",
            "options": {"weights": str(folder / "w.safetensors"), "init": init},
        },
        "batching": {"rows": 10, "window": 50, "shard": 100},
        "checkpoint": {"interval": "20ms"},
        "output": {"path": str(folder / output)},
    }
    from safetensors.torch import save_file
    from torch import tensor

    save_file({"w": tensor(3.0)}, folder / "w.safetensors")
    return make_plan(load.from_fields(fields))


def outcomes(plan: Plan, streams: int) -> list[Outcome]:
    context = Context(plan.spec, plan.reading, JobPaths("0123abcd"), threads=streams, gpus=0)
    executor = InlineExecutor(context)
    try:
        executor.start(of_one(StepSettings("fp32", Budget(10), 1, pa.schema([("y", pa.float32())]), streams)))
        waiting, found = list(plan.shards), []
        while len(found) < len(plan.shards):
            while waiting and executor.wants() > 0:
                executor.submit(waiting.pop(0))
            found += executor.wait(0.2)
        return found
    finally:
        executor.close()


def test_several_streams_give_the_files_of_one(tmp_path: Path) -> None:
    parts = {}
    for streams in (1, 3):
        done = outcomes(planned(tmp_path, str(streams)), streams)
        assert all(isinstance(o, Done) for o in done)
        parts[streams] = {p.name: p.read_bytes() for p in sorted((tmp_path / str(streams) / "data").iterdir())}
        assert sum(o.usage.rows for o in done if isinstance(o, Done)) >= 400
    assert parts[1] == parts[3]
    y = pa.concat_tables([pq.read_table(p) for p in sorted((tmp_path / "3/data").iterdir())])["y"].to_pylist()
    assert y == [3.0 * n for n in range(400) if n != 13]


def test_a_model_that_breaks_its_contract_ends_every_stream(tmp_path: Path) -> None:
    found = outcomes(planned(tmp_path, broken=True), 2)
    assert all(isinstance(o, Failed) and o.failure is Failure.REFUSED for o in found)
    assert "gives 2 outputs" in str(found[0])


def test_no_more_calls_are_in_hand_than_there_are_streams() -> None:
    streams, go, running = Streams(2, "test"), threading.Event(), []

    def call(number: int) -> int:
        running.append(number)
        go.wait(10)
        return number

    futures = []
    for number in range(2):
        assert streams.wait(1)
        futures.append(streams.submit(lambda n=number: call(n)))
    assert not streams.wait(0.05)
    assert sorted(running) == [0, 1]
    go.set()
    assert streams.wait(5)
    assert [f.result(5) for f in futures] == [0, 1]
    streams.close()


def test_a_call_that_raises_frees_its_stream() -> None:
    streams = Streams(1, "test")

    def fails() -> None:
        raise ModelError("no")

    assert streams.wait(1)
    future = streams.submit(fails)
    with pytest.raises(ModelError):
        future.result(5)
    assert streams.wait(1)
    streams.close()


def test_a_call_that_hangs_holds_up_no_one() -> None:
    streams, never = Streams(2, "test"), threading.Event()
    assert streams.wait(1)
    streams.submit(lambda: never.wait(60))
    for _ in range(3):
        assert streams.wait(1)
        assert streams.submit(lambda: 7).result(1) == 7
    began = time.monotonic()
    streams.close()
    assert time.monotonic() - began < 1
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("test-"))
