"""Memory that doesn't suffice and devices that break, by a model that behaves like one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.run.workplace import Workplace

MODEL = '''
import json, os, threading

import torch

FITS = {fits}
state = {{"broken": False}}


class Device:
    """Twice x, on a device with room for a few rows, which a negative row breaks for good; a row of 13 never fits."""

    def __init__(self, log):
        self.log = log

    def __call__(self, batch):
        rows = [float(x) for x in batch["x"]]
        with open(self.log, "a") as log:
            log.write(json.dumps([os.getpid(), threading.current_thread().name, len(rows)]) + "\\n")
        if state["broken"]:
            return {{"y": [-1.0] * len(rows)}}  # a broken context may answer, and what it answers is wrong
        if any(x < 0 for x in rows):
            state["broken"] = True
            error = torch.AcceleratorError("CUDA error: device-side assert triggered")
            error.error_code = 710
            raise error
        if len(rows) > FITS or 13.0 in rows:
            raise {error}
        return {{"y": [object() if x == 17.0 else 2.0 * x for x in rows]}}
'''


class Lab(Workplace):
    """A workplace whose model is a device."""

    def device(
        self, x: list[float], fits: int = 1000, error: str = 'torch.OutOfMemoryError("full")', batch: int = 16
    ) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        (self.folder / "code" / "device.py").write_text(MODEL.format(fits=fits, error=error))
        (self.folder / "input").mkdir()
        pq.write_table(pa.table({"id": range(len(x)), "x": x}), self.folder / "input/a.parquet")
        options = {"log": str(self.log)}
        output = {"y": {"column": "y", "type": "float64"}}
        model = {"uri": "device:Device", "options": options, "outputs": output}
        return self.run(model=model, errors={"threshold": -1}, batching={"rows": batch, "window": 64, "shard": 128})

    def calls(self) -> list[tuple[int, str, int]]:
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]

    def answers(self) -> dict[int, float]:
        frame = self.opened().results().collect()
        return dict(zip(frame["id"].to_list(), frame["y"].to_list(), strict=True))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.mark.parametrize(
    "error", ['torch.OutOfMemoryError("full")', 'MemoryError("full")', "RuntimeError('[x] DefaultCPUAllocator: full')"]
)
def test_a_batch_that_does_not_fit_is_halved_and_the_size_that_fits_is_kept(lab: Lab, error: str) -> None:
    x = [100.0 + n for n in range(256)]
    run = lab.device(x, fits=5, error=error)
    assert run.exit_code == 0
    assert lab.answers() == {n: 2 * v for n, v in enumerate(x)}
    sizes = [rows for _, _, rows in lab.calls()]
    assert sizes[:4] == [16, 8, 4, 4]  # the first batch finds the size, with one half of eight still to come
    assert sum(size > 5 for size in sizes) == 3
    assert run.record["usage"]["steps"]["model"]["halved"] == 3


def test_a_row_that_never_fits_is_dead_and_leaves_the_size_of_batches_alone(lab: Lab) -> None:
    x = [100.0 + n for n in range(256)]
    x[3] = 13.0
    run = lab.device(x)
    (dead,) = lab.dead()
    assert (dead["row"], dead["error_class"], dead["attempts"]) == (3, "out_of_memory", 2)
    assert dead["retryable"]
    assert run.counts.succeeded == 255
    assert [rows for _, _, rows in lab.calls()][-8:] == [16] * 8


@pytest.mark.slow
def test_nothing_that_a_broken_device_answers_is_kept_and_its_row_is_found_elsewhere(lab: Lab) -> None:
    x = [100.0 + n for n in range(256)]
    x[40] = -1.0
    run = lab.device(x, batch=4)  # fewer steps: each needs a process that imports torch
    assert run.exit_code == 0
    (dead,) = lab.dead()
    assert (dead["row"], dead["error_class"], dead["error_type"]) == (40, "device_error", "AcceleratorError")
    assert lab.answers() == {n: 2 * v for n, v in enumerate(x) if n != 40}
    assert len({pid for pid, _, _ in lab.calls()}) > 3  # each broken device is left with its process


def test_the_model_is_called_on_one_thread_also_to_find_what_cannot_be_converted(lab: Lab) -> None:
    x = [100.0 + n for n in range(256)]
    x[20], x[200] = 17.0, 17.0
    lab.device(x)
    assert {d["row"]: d["error_class"] for d in lab.dead()} == {20: "exception", 200: "exception"}
    assert len(lab.answers()) == 254
    assert {thread for _, thread, _ in lab.calls()} == {"batchinfer-0-device"}
