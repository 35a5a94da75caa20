"""Runs in a thread of this process: waiting, cancelling, what they say of themselves, and that there is one at a time."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchinfer import Job, Run, open_run
from batchinfer.api import BackgroundRun
from batchinfer.errors import InputError, LockedError
from batchinfer.run.events import Event, Finished, State, Ticked
from batchinfer.run.stop import StopRequest
from tests.run.workplace import Workplace

SLOW: dict[str, Any] = {"model": {"options": {"delay": 0.02}}, "batching": {"shard": 500}}


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def until(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_run_in_the_background_gives_its_run_to_who_waits(workplace: Workplace) -> None:
    workplace.write(3000)
    handle = Job(**workplace.fields(**SLOW)).run(background=True)
    assert isinstance(handle, BackgroundRun)
    assert handle.wait(0.01) is None
    assert handle.result is None
    assert not handle.done
    run = handle.wait()
    assert isinstance(run, Run)
    assert (run.state, run.counts.succeeded) == (State.SUCCEEDED, 3000)
    assert handle.wait(5) is run is handle.result
    assert handle.done


def test_a_status_follows_the_run_to_its_end(workplace: Workplace) -> None:
    workplace.write(3000, bad={5})
    handle = Job(**workplace.fields(**SLOW)).run(background=True)
    assert handle.status().state is State.RUNNING
    until(lambda: handle.status().rows_per_second > 0)
    status = handle.status()
    assert 0 < status.rows < status.planned == 3000
    assert status.eta is not None
    assert status.eta > 0
    assert "of 3,000 rows" in repr(status)
    assert "RUNNING" in repr(handle)
    assert "running for" in handle._repr_html_()
    handle.wait()
    status = handle.status()
    assert (status.state, status.rows, status.dead, status.eta) == (State.PARTIAL, 3000, 1, None)
    assert status.seconds == handle.status().seconds  # it counts no further
    assert "2999 of 3000 rows, 1 dead" in repr(handle)
    assert "finished, with too many dead rows, after" in handle.table().text()


def test_a_cancelled_run_ends_resumably(workplace: Workplace) -> None:
    workplace.write(6000)
    job = Job(**workplace.fields(**SLOW))
    handle = job.run(background=True)
    until(lambda: handle.status().rows > 0)
    assert handle.cancel()
    run = handle.wait()
    assert (run.state, run.exit_code) == (State.CANCELLED, 130)
    assert run.counts.not_attempted > 0
    assert not handle.cancel()
    assert job.run().counts.succeeded == 6000


def test_the_stop_request_and_the_listener_that_are_given_are_those_of_the_run(workplace: Workplace) -> None:
    workplace.write(6000)
    stop, events = StopRequest(), list[Event]()
    handle = Job(**workplace.fields(**SLOW)).run(background=True, stop=stop, listener=events.append)
    until(lambda: any(isinstance(e, Ticked) for e in events))
    stop.ask("enough for today")
    assert handle.wait().record["errors"] == ["enough for today"]
    assert isinstance(events[-1], Finished)


def test_what_ends_a_run_is_raised_by_wait_each_time(workplace: Workplace, caplog: pytest.LogCaptureFixture) -> None:
    handle = Job(**workplace.fields()).run(background=True)  # there is no input
    for _ in range(2):
        with pytest.raises(InputError, match="matches no file"):
            handle.wait()
    with pytest.raises(InputError):
        handle.result  # noqa: B018
    status = handle.status()
    assert status.state is State.FAILED
    assert status.error is not None
    assert "matches no file" in status.error
    assert "matches no file" in handle._repr_html_()
    assert [r.levelno for r in caplog.records if "the background run of doubling ended" in r.message] == [
        logging.WARNING
    ]


def test_a_second_run_of_an_output_is_refused_at_once_while_the_first_goes_on(workplace: Workplace) -> None:
    workplace.write(60_000)
    job = Job(**workplace.fields(**SLOW))
    handle = job.run(background=True)
    begin = time.monotonic()
    with pytest.raises(LockedError, match="a background run of this process is at work here"):
        job.run(background=True)
    with pytest.raises(LockedError):
        job.run()
    assert time.monotonic() - begin < 2
    until(lambda: handle.status().rows > 0)
    elsewhere = workplace.start(**SLOW)
    _, said = elsewhere.communicate(timeout=60)
    assert elsewhere.returncode == 75, said
    assert "is running this job" in said
    handle.cancel()
    handle.wait()
    handle = job.run(background=True)  # at once, though the thread before may not be gone yet
    handle.cancel()
    assert handle.wait().exit_code == 130


def test_two_outputs_are_run_beside_each_other(workplace: Workplace) -> None:
    workplace.write(2000)
    paths = [str(workplace.folder / name) for name in ("one", "two")]
    handles = [Job(**workplace.fields(output={"path": path}, **SLOW)).run(background=True) for path in paths]
    assert [handle.wait().counts.succeeded for handle in handles] == [2000, 2000]


def test_background_runs_work_inside_a_running_event_loop(workplace: Workplace) -> None:
    workplace.write(1000)
    job = Job(**workplace.fields(**SLOW))

    async def cell() -> int:
        handle = job.run(background=True)
        while not handle.done:
            await asyncio.sleep(0.05)
        run = handle.wait()
        assert len(run.sample(5)) == 5
        assert len(run.errors()) == 0
        return int(run.dataset().count_rows())

    assert asyncio.run(cell()) == 1000


def test_a_run_in_another_thread_sets_no_signal_handler(workplace: Workplace) -> None:
    workplace.write(200)
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(workplace.run()))
    thread.start()
    thread.join(60)
    assert runs[0].exit_code == 0  # signal.signal raises outside of the main thread


PROGRAM = """
import json, sys, time
from batchinfer import Job
handle = Job(**json.loads(sys.argv[1])).run(background=True)
while not handle.status().rows:
    time.sleep(0.05)
print("the program ends", flush=True)
"""


def test_a_program_that_ends_waits_for_its_background_run(workplace: Workplace) -> None:
    import json

    workplace.write(4000)
    fields = json.dumps(workplace.fields(**SLOW))
    done = subprocess.run([sys.executable, "-c", PROGRAM, fields], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the program ends\n", "")
    run = open_run(workplace.folder / "output")
    assert (run.state, run.counts.succeeded) == (State.SUCCEEDED, 4000)


def test_ctrl_c_at_the_end_of_a_program_cancels_its_background_run(workplace: Workplace) -> None:
    import json

    workplace.write(60_000)
    command = [sys.executable, "-c", PROGRAM, json.dumps(workplace.fields(**SLOW))]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "the program ends\n"
    time.sleep(0.5)
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=60) == ("", "")
    run = open_run(workplace.folder / "output")
    assert (run.state, run.exit_code) == (State.CANCELLED, 130)
    assert 0 < run.counts.not_attempted < 60_000
