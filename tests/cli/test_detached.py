"""Runs that go on without a terminal: begun, watched, waited for and cancelled from other processes, by storage alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from batchinfer import open_run
from tests.cli.test_exit_codes import results


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BATCHINFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def submitted(workplace):
    """What submit says, in JSON; the run is over with the test."""
    pids = []

    def submit(*arguments):
        done = workplace.program("submit", "job.yaml", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        value = json.loads(done.stdout)
        pids.append(value["pid"])
        return value

    yield submit
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if "batchinfer" in " ".join(psutil.Process(pid).cmdline()):
                os.kill(pid, signal.SIGKILL)


def test_a_run_goes_on_after_who_began_it_and_is_waited_for(workplace, submitted):
    workplace.write_job(rows=200, batch=10, seconds=0.2)
    begun = time.monotonic()
    value = submitted()
    assert not value["ended"]
    assert value["job"] == open_run(workplace.output).job8
    assert psutil.Process(value["pid"]).status() != psutil.STATUS_ZOMBIE
    waited = workplace.batchinfer("wait", "out", "--json")
    assert waited.returncode == 0, waited.stderr
    assert json.loads(waited.stdout)["rows"]["succeeded"] == 200
    assert time.monotonic() - begun > 20 * 0.2
    assert results(workplace.output) == [(f"row-{n}", 2 * n) for n in range(200)]
    end = time.monotonic() + 20  # the output has the result before the runner has said so
    while "200 = 200 succeeded" not in Path(value["log"]).read_text():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_can_not_be_run_says_so_and_gives_its_code(workplace):
    workplace.write_job()
    done = workplace.program("submit", "job.yaml", "--set", "model.uri=models:Nobody")
    assert done.returncode == 2
    assert "Nobody" in done.stderr
    assert workplace.program("submit", "job.yaml", "--set", "batching.rows=none").returncode == 2


def test_a_range_of_days_is_no_one_run(workplace):
    workplace.write_job()
    done = workplace.program("submit", "job.yaml", "--param", "day=2026-11-01..2026-11-07")
    assert done.returncode == 2
    assert "a range of days is several runs" in done.stderr


@pytest.mark.parametrize("verb", ["submit", "run", "plan", "validate"])
def test_what_can_not_be_run_repeats_no_secret(workplace, monkeypatch, verb):
    monkeypatch.setenv("STORE_PASSWORD", "correct-horse-battery")
    workplace.write_job()
    done = workplace.program(verb, "job.yaml", "--set", "batching.rows=correct-horse-battery")
    assert done.returncode == 2
    assert "batching.rows" in done.stderr
    assert "correct-horse-battery" not in done.stderr


def test_a_job_that_is_done_is_not_begun_again(workplace):
    workplace.write_job()
    workplace.batchinfer("run", "job.yaml")
    done = workplace.program("submit", "job.yaml")
    assert done.returncode == 0
    assert "was complete already" in done.stdout


def test_waiting_ends_with_the_code_of_the_run(workplace, submitted):
    workplace.write_job(bad=[3], seconds=0.2)
    submitted()
    assert workplace.batchinfer("wait", "out").returncode == 3
    assert workplace.batchinfer("wait", "out").returncode == 3


def test_waiting_has_an_end(workplace, submitted):
    workplace.write_job(rows=400, batch=10, seconds=1)
    submitted()
    done = workplace.batchinfer("wait", "out", "--timeout", "1")
    assert done.returncode == 75
    assert "it has not ended" in done.stderr


def test_who_waits_for_a_runner_that_is_gone_is_told(workplace, submitted):
    workplace.write_job(rows=400, batch=10, seconds=1)
    os.kill(submitted()["pid"], signal.SIGKILL)
    done = workplace.batchinfer("wait", "out")
    assert done.returncode == 75
    assert "its runner is gone: run the same command to go on" in done.stderr
    assert "dead" in workplace.batchinfer("status", "out", "--watch").stdout


@pytest.mark.slow
def test_a_run_is_cancelled_by_its_output_and_goes_on_later(workplace, submitted):
    workplace.write_job(rows=1000, batch=10, seconds=0.5)
    submitted()
    asked = workplace.batchinfer("cancel", "out")
    assert "was asked to end" in asked.stdout
    waited = workplace.batchinfer("wait", "out", "--timeout", "40")
    assert waited.returncode == 130, waited.stderr
    value = json.loads(workplace.batchinfer("status", "out", "--json").stdout)
    assert (value["state"], value["exit_code"]) == ("CANCELLED", 130)
    assert "cancelled by process" in open_run(workplace.output).record["errors"][0]
    assert not [f for f in open_run(workplace.output).verify().findings if "cancels" in str(f)]
    assert "nobody is running it" in workplace.batchinfer("cancel", "out").stdout
    value = submitted()
    time.sleep(12)  # longer than a heartbeat: who was asked to end was the one before
    assert psutil.pid_exists(value["pid"])
    assert open_run(workplace.output).runner().state == "alive"


def test_a_watched_status_tells_of_progress_until_the_end(workplace, submitted):
    workplace.write_job(rows=100, batch=10, shard=50, seconds=1)
    submitted()
    done = workplace.batchinfer("status", "out", "--watch")
    assert "batchinfer: doubling: 50/100 rows, 1/2 shards, 0 dead" in done.stderr
    assert "doubling: SUCCEEDED (exit code 0)" in done.stdout or "doubling: RUNNING" in done.stdout
