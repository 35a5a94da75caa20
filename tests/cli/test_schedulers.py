"""What cron, Kubernetes and Airflow get of a run: files, lines, codes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.conftest import wait_for


def figures(path):
    families = text_string_to_metric_families(path.read_text())
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "job")): sample.value
        for family in families
        for sample in family.samples
    }


@contextlib.contextmanager
def running(workplace, *arguments):
    """A run that has loaded its model, and that is over with the block."""
    run = workplace.start("run", "job.yaml", *arguments)
    try:
        wait_for(run.stderr, "running with")
        yield run
    finally:
        run.kill()
        run.communicate()


def test_the_result_stands_in_a_file_whichever_way_the_run_ends(workplace):
    file = workplace.folder / "result.json"
    workplace.write_job(bad=[3])
    done = workplace.batchinfer("run", "job.yaml", "--json", "--result-file", str(file))
    assert file.read_text() == done.stdout
    assert json.loads(file.read_text())["exit_code"] == done.returncode == 3
    assert file.stat().st_mode & 0o777 == 0o644
    refused = workplace.batchinfer("run", "job.yaml", "--set", "batching.rows=none", "--result-file", str(file))
    value = json.loads(file.read_text())
    assert value["exit_code"] == refused.returncode == 2
    assert "batching.rows" in value["errors"][0]
    assert [p.name for p in workplace.folder.glob(".result*")] == []


def test_a_file_that_can_not_be_written_is_refused_before_the_run(workplace):
    workplace.write_job()
    for option in ("--result-file", "--metrics-file"):
        done = workplace.batchinfer("run", "job.yaml", option, "nowhere/file")
        assert done.returncode == 2
        assert f"{option} nowhere/file: no file can be written there" in done.stderr
    assert not workplace.output.exists()


def test_figures_stand_in_a_file_and_a_run_that_fails_keeps_the_last_success(workplace):
    file = workplace.folder / "batchinfer.prom"
    workplace.write_job(rows=100, shard=50)
    begun = time.time()
    assert workplace.batchinfer("run", "job.yaml", "--metrics-file", str(file)).returncode == 0
    found = figures(file)
    assert found["batchinfer_rows", "planned"] == found["batchinfer_rows", "succeeded"] == 100
    assert found["batchinfer_rows_done",] == 100
    assert (found["batchinfer_running",], found["batchinfer_exit_code",]) == (0, 0)
    assert found["batchinfer_stage_seconds", "infer"] > 0
    success = found["batchinfer_last_success_timestamp_seconds",]
    assert begun <= success <= time.time()
    assert 'job="doubling"' in file.read_text()
    workplace.write_job(rows=100, shard=50, bad=list(range(100)))
    assert workplace.batchinfer("run", "job.yaml", "--restart", "--metrics-file", str(file)).returncode == 3
    found = figures(file)
    assert found["batchinfer_exit_code",] == 3
    assert found["batchinfer_last_success_timestamp_seconds",] == success


def test_figures_are_there_while_the_run_goes_on(workplace):
    file = workplace.folder / "batchinfer.prom"
    workplace.write_job(rows=400, batch=10, seconds=0.2)
    with running(workplace, "--metrics-file", str(file)):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if file.exists() and 0 < figures(file).get(("batchinfer_rows_done",), 0) < 400:
                break
            time.sleep(0.05)
        found = figures(file)
        assert found["batchinfer_running",] == 1
        assert ("batchinfer_exit_code",) not in found


@pytest.mark.parametrize("bad", [[], [3]])
def test_each_line_of_a_log_may_be_json(workplace, bad):
    workplace.write_job(bad=bad)
    done = workplace.program("run", "job.yaml", "--log-format", "json", "--log-level", "info")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines
    assert all(set(line) == {"time", "level", "logger", "message"} for line in lines)
    told = {(line["level"], line["message"].partition(" ")[0]) for line in lines if line["logger"] == "batchinfer.cli"}
    assert ("INFO", "100") in told
    assert any(line["level"] == "ERROR" for line in lines) == bool(bad)


def test_an_error_before_the_run_is_json_too(workplace):
    done = workplace.program("run", "nowhere.yaml", "--log-format", "json")
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert line["level"] == "ERROR"
    assert "nowhere.yaml" in line["message"]
    assert done.returncode == 2


@pytest.mark.parametrize(("asked", "code"), [("fail", 75), ("skip", 99), ("wait", 0)])
def test_another_runner_on_the_output_is_an_error_a_reason_to_skip_or_to_wait(workplace, asked, code):
    file = workplace.folder / "result.json"
    workplace.write_job(rows=100, batch=10, seconds=0.3)
    with running(workplace) as first:
        second = workplace.batchinfer("run", "job.yaml", "--if-locked", asked, "--result-file", str(file))
        assert second.returncode == code, second.stderr
        assert json.loads(file.read_text())["exit_code"] == code
        if asked == "wait":
            assert "waiting until it has ended" in second.stderr
            assert first.wait(5) == 0
        else:
            assert first.poll() is None


def test_who_waits_for_another_runner_can_be_stopped(workplace):
    workplace.write_job(rows=100, batch=10, seconds=1)
    with running(workplace):
        second = workplace.start("run", "job.yaml", "--if-locked", "wait")
        wait_for(second.stderr, "waiting until it has ended")
        second.terminate()
        assert second.wait(20) == 75
        second.communicate()


@pytest.mark.parametrize(
    ("bad", "code", "line"),
    [([], 0, "exit code 0, SUCCEEDED"), ([3], 3, "exit code 3, PARTIAL: 1 dead row, more than")],
)
def test_a_container_says_why_it_ended(workplace, monkeypatch, bad, code, line):
    file = workplace.folder / "termination-log"
    file.touch()
    workplace.write_job(bad=bad)
    environment = {**workplace.environment(), "BATCHINFER_TERMINATION_LOG": str(file)}
    done = subprocess.run(
        [*workplace.command, "run", "job.yaml"], cwd=workplace.folder, env=environment, capture_output=True, check=False
    )
    assert done.returncode == code
    assert file.read_text().startswith(line), file.read_text()
