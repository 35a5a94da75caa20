"""An engine in a child process: what ends the child raises here, and says what ended it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from batchinfer.engines.faults import Fault
from batchinfer.errors import ModelError, StoppedError
from batchinfer.job.secrets import Secrets
from batchinfer.job.spec import Retry
from batchinfer.job.steps import Step
from batchinfer.worker.failures import RowFailure, fault
from batchinfer.worker.quarantine import Quarantine

MODEL = """
import os, pathlib, subprocess, time

from batchinfer.engines.python import PythonEngine


def prepare(engine, rows, really=PythonEngine.prepare):
    if -5 in rows["x"].to_pylist():
        time.sleep(3600)
    return really(engine, rows)


PythonEngine.prepare = prepare


class Model:
    def __init__(self, dies=False, killed_until=None, helper=None):
        if dies:
            os._exit(9)
        if killed_until and not pathlib.Path(killed_until).exists():
            pathlib.Path(killed_until).touch()
            os.kill(os.getpid(), 9)
        self.helper = helper

    def __call__(self, batch):
        for x in batch["x"]:
            if x == -1:
                os.abort()
            if x == -2:
                raise KeyError("two")
            if x == -3:
                if self.helper:
                    helper = subprocess.Popen(["sleep", "3600"])
                    pathlib.Path(self.helper).write_text(str(helper.pid))
                time.sleep(3600)
            if x == -4:
                import torch

                error = torch.AcceleratorError("CUDA error: device-side assert triggered")
                error.error_code = 710
                raise error
        print("said on standard output")
        return {"y": [x + 1 for x in batch["x"]], "pid": [os.getpid()] * len(batch["x"])}
"""


class Place:
    """Makes quarantines around the model, and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stopping = folder, threading.Event()
        self.made: list[Quarantine] = []
        (folder / "dying_child.py").write_text(MODEL)

    def __call__(self, timeout: float | None = None, **options: object) -> Quarantine:
        step = Step(
            engine="python",
            uri="dying_child:Model",
            inputs={"x": "x"},
            outputs={"y": "y", "pid": "pid"},
            options=options,
        )
        retry = Retry(timeout=timeout, max_retries=1)
        self.made.append(Quarantine(step, (str(self.folder),), "cpu", retry, self.stopping, Secrets()))
        return self.made[-1]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for quarantine in place.made:
        quarantine.close()


def rows(*x: int) -> pa.Table:
    return pa.table({"x": pa.array(x, pa.int64())})


def is_gone(pid: int) -> bool:
    """Whether a process has ended, or does so soon."""
    end = time.monotonic() + 20
    status = Path(f"/proc/{pid}/status")
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if "\nState:\tZ" not in status.read_text():
                time.sleep(0.05)
                continue
        return True
    return False


def test_it_answers_from_another_process_and_starts_another_where_one_died(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    quarantine = place()
    prepared = quarantine.prepare(rows(1, 2, 3))
    assert (len(prepared), prepared.lengths, prepared.truncated) == (3, None, None)
    answer = quarantine.infer(prepared.batch(slice(0, 2)))
    assert answer["y"].to_pylist() == [2, 3]
    first = answer["pid"][0].as_py()
    assert first != os.getpid()
    with pytest.raises(RowFailure, match="SIGABRT") as caught:
        quarantine.infer(rows(5, -1))
    error = caught.value.error
    assert (error.error_class, error.error_type, error.exit_signal) == ("process_death", "ProcessDied", "SIGABRT")
    assert quarantine.ended == 1
    again = quarantine.infer(rows(5))
    assert again["y"].to_pylist() == [6]
    assert again["pid"][0].as_py() != first
    assert capfd.readouterr().out == ""


def test_what_the_model_raises_there_is_raised_here_and_the_process_lives(place: Place) -> None:
    quarantine = place()
    pid = quarantine.infer(rows(1))["pid"][0].as_py()
    with pytest.raises(RowFailure) as caught:
        quarantine.infer(rows(-2))
    assert (caught.value.error.error_class, caught.value.error.error_type) == ("exception", "KeyError")
    assert quarantine.infer(rows(1))["pid"][0].as_py() == pid
    assert quarantine.ended == 0


def test_a_call_that_takes_too_long_ends_its_process_and_those_it_started(place: Place, tmp_path: Path) -> None:
    helper = tmp_path / "helper"
    quarantine = place(timeout=0.5, helper=str(helper))
    pid = quarantine.infer(rows(1))["pid"][0].as_py()
    with pytest.raises(RowFailure) as caught:
        quarantine.infer(rows(-3))
    assert caught.value.error.error_class == "timeout"
    assert caught.value.error.retryable
    assert not Path(f"/proc/{pid}").exists()
    assert is_gone(int(helper.read_text()))


def test_rows_that_cannot_be_prepared_in_time_end_their_process_too(place: Place) -> None:
    quarantine = place(timeout=0.2)
    assert len(quarantine.prepare(rows(1, 2))) == 2
    with pytest.raises(RowFailure) as caught:
        quarantine.prepare(rows(1, -5))
    assert caught.value.error.error_class == "timeout"
    assert quarantine.ended == 1


def test_a_broken_device_ends_its_process_and_is_an_error_of_the_row(place: Place) -> None:
    quarantine = place()
    pid = quarantine.infer(rows(1))["pid"][0].as_py()
    with pytest.raises(RowFailure) as caught:
        quarantine.infer(rows(-4))
    assert (caught.value.error.error_class, caught.value.error.error_type) == ("device_error", "AcceleratorError")
    assert fault(caught.value) is Fault.POISONED
    assert not Path(f"/proc/{pid}").exists()


def test_a_request_to_stop_ends_the_call_and_its_process(place: Place) -> None:
    quarantine = place()
    quarantine.infer(rows(1))
    threading.Timer(0.3, place.stopping.set).start()
    with pytest.raises(StoppedError):
        quarantine.infer(rows(-3))
    assert quarantine.ended == 0


def test_a_model_that_ends_its_process_while_it_loads_is_refused(place: Place) -> None:
    with pytest.raises(ModelError, match="exit 9"):
        place(dies=True).infer(rows(1))


def test_a_process_that_is_killed_from_outside_as_it_loads_is_started_again(place: Place, tmp_path: Path) -> None:
    assert place(killed_until=str(tmp_path / "killed")).infer(rows(1))["y"].to_pylist() == [2]


def test_the_child_ends_with_its_parent(place: Place, tmp_path: Path) -> None:
    parent = os.fork()
    if parent == 0:  # no thread but this one: what is forked is used for nothing else
        pid = place().infer(rows(1))["pid"][0].as_py()
        (tmp_path / "pid").write_text(str(pid))
        time.sleep(60)
        os._exit(0)
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    assert is_gone(int((tmp_path / "pid").read_text()))
