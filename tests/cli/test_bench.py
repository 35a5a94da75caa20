"""`batchinfer bench`: a job beside the bare loop over its rows."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

STAGES = ["read", "prepare", "wait", "device", "write", "commit"]


def figures(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_bench_shows_the_share_of_the_limit_and_every_stage_in_eighty_columns(workplace):
    workplace.write_job(seconds=0.01)
    done = workplace.batchinfer("bench", "job.yaml")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("doubling: ")
    assert lines[0].endswith("% of the limit")
    labels = [line[:14].strip() for line in lines]
    assert [label for label in labels if label in STAGES] == STAGES
    assert max(map(len, lines)) <= 80


def test_runner_and_loop_see_the_same_rows_and_the_device_the_same_work(workplace):
    workplace.write_job(seconds=0.02)
    found = figures(workplace.batchinfer("bench", "job.yaml", "--json"))
    assert (found["name"], found["rows"], found["succeeded"]) == ("doubling", 100, 100)
    for place in ("runner", "loop"):
        assert found[place]["stages"]["infer"] >= 10 * 0.02
        assert found[place]["rows_per_second"] == pytest.approx(100 / found[place]["seconds"], rel=1e-2)
    rates = found["runner"]["rows_per_second"] / found["loop"]["rows_per_second"]
    assert found["share_of_limit"] == pytest.approx(rates, rel=1e-2)
    assert list(found["runner"]["stages"]) == ["read", "prepare", "wait", "infer", "write", "commit"]
    assert sum(found["loop"]["stages"].values()) == pytest.approx(found["loop"]["seconds"], rel=1e-2)


def test_bench_takes_the_first_rows_only(workplace):
    workplace.write_job()
    assert figures(workplace.batchinfer("bench", "job.yaml", "--rows", "30", "--json"))["rows"] == 30


def test_the_jobs_own_output_is_not_touched(workplace):
    workplace.write_job()
    assert workplace.batchinfer("bench", "job.yaml").returncode == 0
    assert not workplace.output.exists()
    assert workplace.batchinfer("run", "job.yaml").returncode == 0
    before = {p: p.read_bytes() for p in workplace.output.rglob("*") if p.is_file()}
    assert workplace.batchinfer("bench", "job.yaml", "--set", "output.mode=overwrite").returncode == 0
    assert {p: p.read_bytes() for p in workplace.output.rglob("*") if p.is_file()} == before


def test_rows_that_are_dead_are_left_out_of_the_loop(workplace):
    workplace.write_job(bad=[3, 77])
    found = figures(workplace.batchinfer("bench", "job.yaml", "--json"))
    assert (found["rows"], found["succeeded"]) == (100, 98)


def test_what_a_model_prints_does_not_get_between_the_json(workplace):
    workplace.write_job(model="Talker")
    done = workplace.batchinfer("bench", "job.yaml", "--json")
    assert len(done.stdout.splitlines()) == 1
    assert figures(done)["rows"] == 100


def test_a_model_that_cannot_be_loaded_is_refused_as_in_a_run(workplace):
    workplace.write_job(nonsense=1)
    done = workplace.batchinfer("bench", "job.yaml")
    assert done.returncode == 2
    assert "model.options: models:Double can't be built" in done.stderr


def test_rows_that_all_fail_end_with_three_as_in_a_run(workplace):
    workplace.write_job(rows=200, bad=list(range(200)))
    assert workplace.batchinfer("bench", "job.yaml").returncode == 3


def test_a_job_of_a_cluster_is_not_compared_with_a_loop_of_this_machine(workplace):
    workplace.write_job()
    done = workplace.batchinfer("bench", "job.yaml", "--set", "resources.address=auto")
    assert done.returncode == 2
    assert "resources.address" in done.stderr


def test_a_bench_of_no_rows_says_so(workplace):
    workplace.write_job()
    done = workplace.batchinfer("bench", "job.yaml", "--set", "input.where=x < 0")
    assert done.returncode == 0, done.stderr
    assert "no row to predict" in done.stdout


def test_ctrl_c_during_the_loop_ends_with_130_and_leaves_nothing(workplace, tmp_path):
    workplace.write_job(rows=1000, seconds=0.02, shard=50)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [*workplace.command, "bench", "job.yaml"],
        cwd=workplace.folder,
        env={**workplace.environment(), "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "the bare loop" in line:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert list(scratch.iterdir()) == []
