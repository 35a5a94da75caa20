from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchinfer.ledger import records
from tests.cli.conftest import wait_for


def results(output: Path) -> list[tuple[str, int]]:
    rows = [row for path in sorted(output.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return [(row["id"], row["y"]) for row in rows]


def test_a_run_with_a_prediction_for_every_row_exits_0(workplace):
    workplace.write_job(rows=120)
    done = workplace.program("run", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert "120 = 120 succeeded + 0 dead" in done.stdout
    assert results(workplace.output) == [(f"row-{n}", 2 * n) for n in range(120)]


def test_running_a_complete_job_again_says_so_and_exits_0(workplace):
    workplace.write_job()
    workplace.batchinfer("run", "job.yaml")
    again = workplace.batchinfer("run", "job.yaml")
    assert again.returncode == 0
    assert "was complete already" in again.stdout


def test_an_unexpected_exception_exits_1_with_its_traceback(workplace):
    workplace.write_job()
    workplace.batchinfer("run", "job.yaml")
    (record,) = workplace.output.glob("_batchinfer/*/settings.json")
    value = records.from_bytes(record.read_bytes(), str(record))
    del value["output_schema"]  # a sound record, and none that batchinfer writes
    record.write_bytes(records.to_bytes(value))
    done = workplace.program("run", "job.yaml", "--progress", "none")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().split("\n")[-1].startswith("error: unexpected KeyError")
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "job.yaml", "--fast"], ["walk"], ["run", "job.yaml", "--param", "x"]]
)
def test_a_usage_error_exits_2(workplace, arguments):
    workplace.write_job()
    done = workplace.batchinfer(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_wrong_job_file_exits_2_and_names_every_mistake_on_its_own_line(workplace):
    workplace.write_job()
    text = (workplace.folder / "job.yaml").read_text()
    wrong = text.replace("interval: 200ms", "interval: soon").replace("engine: python", "engine: pyton")
    (workplace.folder / "job.yaml").write_text(wrong)
    done = workplace.program("run", "job.yaml")
    assert done.returncode == 2
    errors = done.stderr.rstrip().split("\n")
    assert all(line.startswith("error: job.yaml:") for line in errors)
    assert any("checkpoint.interval" in line for line in errors)
    assert any("model.engine" in line for line in errors)


def test_an_input_that_matches_nothing_exits_2(workplace):
    workplace.write_job()
    (workplace.folder / "input.parquet").unlink()
    done = workplace.batchinfer("run", "job.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("verb", ["status", "errors", "clean", "retry"])
def test_an_output_without_a_job_exits_2(workplace, verb):
    done = workplace.batchinfer(verb, "nowhere")
    assert done.returncode == 2
    assert "no job of batchinfer" in done.stderr


def test_dead_rows_over_the_threshold_exit_3(workplace):
    workplace.write_job(bad=[7, 60])
    done = workplace.program("run", "job.yaml")
    assert done.returncode == 3
    assert "98 succeeded + 2 dead" in done.stdout
    assert "batchinfer errors" in done.stdout
    again = workplace.batchinfer("run", "job.yaml", "--set", "errors.threshold=2")
    assert again.returncode == 0


def test_a_retry_of_a_mended_job_exits_0_and_again_without_work(workplace):
    workplace.write_job(bad=[7, 60])
    assert workplace.batchinfer("run", "job.yaml").returncode == 3
    assert "batchinfer retry" in workplace.batchinfer("run", "job.yaml").stdout
    unmended = workplace.batchinfer("retry", "out", "--json")
    assert (unmended.returncode, json.loads(unmended.stdout)["rows"]["dead"]) == (3, 2)
    other = workplace.batchinfer("retry", "out", "--error", "KeyError")
    assert other.returncode == 3
    assert "no dead row is like that" in other.stdout
    mended = workplace.batchinfer("retry", "out", "--error", "ValueError", "--set", "model.options.bad=[60]")
    assert mended.returncode == 3
    assert "100 = 99 succeeded + 1 dead" in mended.stdout
    text = (workplace.folder / "job.yaml").read_text()
    (workplace.folder / "job.yaml").write_text(text.replace("[7, 60]", "[]"))
    done = workplace.batchinfer("retry", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert sorted(results(workplace.output)) == sorted((f"row-{n}", 2 * n) for n in range(100))
    again = workplace.batchinfer("retry", "job.yaml")
    assert again.returncode == 0
    assert "no row is dead; nothing to do" in again.stdout
    assert workplace.batchinfer("run", "job.yaml").returncode == 0


def test_a_retry_that_changes_the_rows_of_the_job_exits_2(workplace):
    workplace.write_job(bad=[7])
    workplace.batchinfer("run", "job.yaml")
    done = workplace.batchinfer("retry", "out", "--set", "input.limit=50")
    assert done.returncode == 2
    assert "input.limit: null → 50" in done.stderr


def test_a_signal_drains_a_retry_and_the_same_command_resumes(workplace):
    workplace.write_job(rows=800, bad=list(range(1, 800, 2)), batch=10, shard=400)
    workplace.batchinfer("run", "job.yaml")
    slow = ["--set", "model.options={seconds: 0.05}"]
    run = workplace.start("retry", "out", "--json", *slow)
    wait_for(run.stderr, "running with")
    time.sleep(0.8)
    run.send_signal(signal.SIGTERM)
    out, errors = run.communicate(timeout=20)
    assert run.returncode == 75, errors
    assert json.loads(out)["state"] == "INTERRUPTED"
    assert json.loads(out)["rows"] == {"planned": 800, "succeeded": 400, "dead": 400, "filtered": 0, "not_attempted": 0}
    status = workplace.batchinfer("status", "out")
    assert "of 400 dead rows, not ended: run the same retry again" in status.stdout
    resumed = workplace.batchinfer("retry", "out", *slow)
    assert resumed.returncode == 0, resumed.stderr
    assert sorted(results(workplace.output)) == sorted((f"row-{n}", 2 * n) for n in range(800))
    assert json.loads(workplace.batchinfer("status", "out", "--json").stdout)["generations"][1]["ended"] is True


def test_another_live_runner_on_the_output_exits_75(workplace):
    workplace.write_job(rows=2000, batch=10, seconds=0.2)
    first = workplace.start("run", "job.yaml")
    try:
        wait_for(first.stderr, "running with")
        second = workplace.batchinfer("run", "job.yaml")
        assert second.returncode == 75
        assert f"error: {workplace.output}: process {first.pid} on" in second.stderr
        cleaned = workplace.batchinfer("clean", "out", "--yes")
        assert cleaned.returncode == 75
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize(
    ("number", "code", "state"), [(signal.SIGTERM, 75, "INTERRUPTED"), (signal.SIGINT, 130, "CANCELLED")]
)
def test_a_signal_drains_the_run_and_the_same_command_resumes(workplace, number, code, state):
    workplace.write_job(rows=400, batch=10, seconds=0.05)
    run = workplace.start("run", "job.yaml", "--json")
    wait_for(run.stderr, "running with")
    time.sleep(0.8)
    run.send_signal(number)
    out, errors = run.communicate(timeout=20)
    assert run.returncode == code, errors
    assert json.loads(out)["state"] == state
    assert json.loads(workplace.batchinfer("status", "out", "--json").stdout)["state"] == state
    resumed = workplace.batchinfer("run", "job.yaml", "--set", "metadata.try=2")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed" in resumed.stderr
    assert results(workplace.output) == [(f"row-{n}", 2 * n) for n in range(400)]


def test_a_second_signal_exits_at_once(workplace):
    workplace.write_job(seconds=60)
    run = workplace.start("run", "job.yaml", "--set", "model.precision=auto")
    wait_for(run.stderr, "running with")
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    time.sleep(0.8)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    try:
        run.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        run.kill()
        raise
    assert run.returncode == 130


def test_a_thread_on_its_way_back_into_python_does_not_change_the_exit_code() -> None:
    """Such a thread, of a library's own, would end the process with SIGABRT while Python ends in order."""
    code = (
        "import atexit, os, sys\nfrom batchinfer.__main__ import main\n"
        "atexit.register(os.abort)\nsys.argv = ['batchinfer', 'validate', 'no-such-job.yaml']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "no-such-job.yaml" in done.stderr
