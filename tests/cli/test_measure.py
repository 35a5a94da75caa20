"""`batchinfer plan --measure`: a few rows are really run, and say what the job takes."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from batchinfer import Job
from batchinfer.run.stop import StopRequest
from tests.cli.conftest import ROOT

INLINE = ("--set", "resources.executor=inline")


def measured(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["measured"]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary folders go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def test_the_plan_and_what_was_measured_fit_into_eighty_columns(workplace):
    workplace.write_job(rows=1000, seconds=0.01)
    done = workplace.batchinfer("plan", "job.yaml", "--measure", *INLINE, "--set", "resources.price_per_hour=2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    labels = [line[:16].strip() for line in lines]
    assert labels[0] == "job"
    assert [one for one in labels[11:] if one] == ["measured", "inline", "time", "device-hours", "cost", "ranges"]
    assert "Ray" not in done.stdout
    assert max(len(line) for line in lines if str(workplace.folder) not in line) <= 80, "no path is broken"
    assert "inline: 1 worker" in done.stderr


def test_the_figures_are_those_of_the_model_and_the_whole_job(workplace):
    """A call takes 20 ms for ten rows: at most 500 rows a second, on one device."""
    workplace.write_job(rows=4000, seconds=0.02, window=64, shard=640)
    found = measured(
        workplace.batchinfer("plan", "job.yaml", "--measure", *INLINE, "--set", "resources.price_per_hour=36", "--json")
    )
    (seen,) = found["executors"]
    assert (found["rows"], seen["executor"], seen["workers"], seen["devices"]) == (4000, "inline", 1, 1)
    assert seen["rows"] + seen["rows_before"] >= 512
    pace, seconds = seen["rows_per_second"], seen["seconds"]
    assert 250 < pace["low"] <= pace["value"] <= pace["high"] <= 500
    assert seconds["low"] <= seconds["value"] <= seconds["high"]
    assert seconds["value"] == pytest.approx(seen["start_seconds"] + 4000 / pace["value"], rel=0.01)
    assert seen["device_hours"]["value"] == pytest.approx(seconds["value"] / 3600)
    assert seen["cost"]["high"] == pytest.approx(seconds["high"] / 100)
    assert seen["memory_bytes"] > 20e6
    assert seen["device_memory_bytes"] is None
    assert (found["sooner"], found["crossing_rows"]) == (None, None)


def test_a_model_that_is_done_at_once_gets_more_rows(workplace):
    workplace.write_job(rows=20_000, batch=1000, window=5000, shard=5000)
    seen = measured(workplace.batchinfer("plan", "job.yaml", "--measure", *INLINE, "--json"))["executors"][0]
    assert seen["rows"] == 4 * 4 * 512
    assert seen["rows_before"] == 512 + 4 * 512


def test_the_jobs_output_and_its_cache_are_not_touched_and_nothing_is_left_behind(workplace, scratch):
    workplace.write_job(rows=300)
    keeping = ("--set", f"cache.path={workplace.folder}/cache")
    assert workplace.batchinfer("plan", "job.yaml", "--measure", *INLINE, *keeping).returncode == 0
    assert not workplace.output.exists()
    assert not (workplace.folder / "cache").exists()
    assert list(scratch.iterdir()) == []
    assert workplace.batchinfer("run", "job.yaml", *keeping).returncode == 0
    before = {p: p.read_bytes() for p in workplace.folder.rglob("*") if p.is_file()}
    assert workplace.batchinfer("plan", "job.yaml", "--measure", *INLINE, *keeping).returncode == 0
    assert {p: p.read_bytes() for p in workplace.folder.rglob("*") if p.is_file()} == before


def test_a_limit_that_the_job_will_reach_is_told(workplace):
    workplace.write_job(rows=1000, seconds=0.02)
    priced = ("--set", "resources.price_per_hour=3600", "--set", "run.max_cost=0.5")
    done = workplace.batchinfer("plan", "job.yaml", "--measure", "--rows", "100", *INLINE, *priced)
    assert "run.max_cost will probably stop the job before its end" in " ".join(done.stdout.split())


def test_dead_rows_are_told_and_no_failure(workplace):
    workplace.write_job(rows=400, bad=[3, 77])
    done = workplace.batchinfer("plan", "job.yaml", "--measure", *INLINE)
    assert done.returncode == 0, done.stderr
    assert "2 of the canary's: errors.threshold says how many a job may have" in " ".join(done.stdout.split())


def test_a_job_without_rows_is_no_error(workplace):
    workplace.write_job()
    done = workplace.batchinfer("plan", "job.yaml", "--measure", "--set", "input.where=x < 0")
    assert done.returncode == 0, done.stderr
    assert "there is no row to measure on" in done.stdout


def test_a_job_of_a_cluster_is_not_measured_on_this_machine_unasked(workplace):
    workplace.write_job()
    done = workplace.batchinfer("plan", "job.yaml", "--measure", "--set", "resources.address=auto")
    assert done.returncode == 2
    assert "--set resources.address=null" in done.stderr


def test_rows_without_measure_is_a_mistake(workplace):
    workplace.write_job()
    done = workplace.batchinfer("plan", "job.yaml", "--rows", "64")
    assert done.returncode == 2
    assert "--measure" in done.stderr


def test_a_model_that_cannot_be_loaded_is_refused_as_in_a_run(workplace, scratch):
    workplace.write_job(nonsense=1)
    done = workplace.batchinfer("plan", "job.yaml", "--measure")
    assert done.returncode == 2
    assert "model.options: models:Double can't be built" in done.stderr
    assert list(scratch.iterdir()) == []


def test_rows_that_all_fail_end_with_three_as_in_a_run(workplace, scratch):
    workplace.write_job(rows=200, bad=list(range(200)))
    assert workplace.batchinfer("plan", "job.yaml", "--measure").returncode == 3
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("signals", "code", "loading"),
    [
        ([signal.SIGINT], 130, False),
        ([signal.SIGTERM], 75, False),
        ([signal.SIGINT, signal.SIGINT], 130, False),
        ([signal.SIGTERM], 75, True),
        ([signal.SIGINT, signal.SIGINT], 130, True),
    ],
)
def test_a_signal_ends_it_and_leaves_nothing(workplace, scratch, signals, code, loading):
    workplace.write_job(rows=4000, seconds=0.2)
    models = workplace.folder / "code" / "models.py"
    if loading:
        models.write_text(
            models.read_text().replace("self.seconds, self.bad", "time.sleep(4); self.seconds, self.bad", 1)
        )
    process = subprocess.Popen(
        [*workplace.command, "plan", "job.yaml", "--measure", *INLINE],
        cwd=workplace.folder,
        env={**workplace.environment(), "TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if ("making ready" if loading else "1 worker") in line:
            break
    assert list(scratch.iterdir()) != []
    for number in signals:
        process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert list(scratch.iterdir()) == []


def test_a_stop_from_another_thread_ends_it_from_python_too(workplace, scratch):
    workplace.write_job(rows=4000, seconds=0.05)
    stop = StopRequest()
    stop.ask("enough")
    with pytest.raises(Exception, match="enough"):
        Job.from_yaml(workplace.folder / "job.yaml", set_values=["resources.executor=inline"]).measure(stop=stop)
    assert list(scratch.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
def test_real_texts_are_measured_inline_and_on_ray_and_compared(workplace, scratch, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # the test's own is too long for Ray's sockets
    output = f"output.path={workplace.folder}/out"
    arguments = ("--rows", "64", "--set", output, "--set", "resources.price_per_hour=2.5", "--json")
    found = measured(workplace.program("plan", str(ROOT / "jobs/quickstart.yaml"), "--measure", *arguments))
    inline, on_ray = found["executors"]
    assert (inline["executor"], on_ray["executor"], found["rows"]) == ("inline", "ray", 2340)
    for seen in (inline, on_ray):
        assert seen["rows"] >= 56
        assert 0.5 < seen["rows_per_second"]["value"] < 5000
        assert seen["memory_bytes"] > 200e6
        assert seen["cost"]["low"] == pytest.approx(seen["seconds"]["low"] * 2.5 / 3600)
    assert on_ray["start_seconds"] > 1, "Ray itself has to start"
    assert found["sooner"] in ("inline", None)
    assert not Path(workplace.folder / "out").exists()
    assert [path.name for path in scratch.iterdir() if path.name.startswith("batchinfer-measure")] == []
