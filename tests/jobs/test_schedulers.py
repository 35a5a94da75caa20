"""What `jobs/schedulers/` holds: valid where its schema is known, and commands that do what their comments say."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from batchinfer.job.load import load

FOLDER = Path(__file__).parents[2] / "jobs" / "schedulers"
KUBERNETES = "1.37"
MODEL = "class Double:\n    def __call__(self, batch):\n        return {'y': batch['x'] * 2}\n"
JOB = """
version: 1
name: daily
params: {day: null}
code: [code]
input: {path: "in/${params.day}", key: id}
model: {engine: python, uri: "doubling:Double", inputs: {x: x}, outputs: {y: y}}
output: {path: "out/${params.day}"}
"""


def documents(name: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(FOLDER / name))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a daily job, its input of the last nine days, and a program called batchinfer."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "doubling.py").write_text(MODEL)
    (tmp_path / "daily.yaml").write_text(JOB)
    for n in range(9):
        folder = tmp_path / "in" / day(n)
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"id": [0], "x": [n]}), folder / "a.parquet")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "batchinfer"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m batchinfer "$@"\n')
    program.chmod(0o755)
    return tmp_path


def day(ago: int) -> str:
    return (date.today() - timedelta(ago)).isoformat()  # noqa: DTZ011 - as cron has it


def shell(place: Path, command: str, **more: str) -> int:
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(FOLDER.parents[1]),
        **more,
    }
    return subprocess.run(["/bin/sh", "-c", command], cwd=place, env=environment, check=False).returncode


@pytest.mark.parametrize("name", ["kubernetes_job.yaml", "kubernetes_indexed_job.yaml"])
def test_what_kubernetes_is_given_is_valid(name: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_pods_of_a_ray_job_are_valid() -> None:
    (job,) = documents("kuberay_rayjob.yaml")
    spec = job["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["kubernetes_job.yaml", "kubernetes_indexed_job.yaml"])
def test_the_job_files_in_manifests_are_valid(name: str, tmp_path: Path) -> None:
    config, job = documents(name)
    (tmp_path / "job.yaml").write_text(config["data"]["job.yaml"])
    spec = load(tmp_path / "job.yaml", {"day": "2026-11-01"} if "params" in config["data"]["job.yaml"] else {}, [])
    assert spec.name == config["metadata"]["name"] == job["metadata"]["name"]
    volume = job["spec"]["template"]["spec"]["volumes"][0]
    assert volume["configMap"]["name"] == config["metadata"]["name"]


def test_what_a_pod_and_a_ray_job_call_is_a_command_that_runs(place: Path) -> None:
    _, job = documents("kubernetes_job.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (ray,) = documents("kuberay_rayjob.yaml")
    entry = ray["spec"]["entrypoint"].replace("--set resources.address=auto --set resources.gpus=1 ", "")
    for n, command in enumerate((shlex.join([*container["command"], *container["args"]]), entry)):
        assert shell(place, command.replace("/jobs/job.yaml", f"daily.yaml --param day={day(n)}")) == 0
        assert pq.read_table(place / "out" / day(n) / "data")["y"].to_pylist() == [2 * n]


def test_each_index_is_a_day(place: Path) -> None:
    _, job = documents("kubernetes_indexed_job.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    command = container["args"][0].replace("/jobs/job.yaml", "daily.yaml")
    assert shell(place, command, FIRST_DAY=day(5), JOB_COMPLETION_INDEX="2") == 0
    assert os.listdir(place / "out") == [day(3)]


def test_every_code_that_would_come_again_ends_a_kubernetes_job_at_once() -> None:
    for name, action in (("kubernetes_job.yaml", "FailJob"), ("kubernetes_indexed_job.yaml", "FailIndex")):
        rules = documents(name)[1]["spec"]["podFailurePolicy"]["rules"]
        assert [rule["onExitCodes"]["values"] for rule in rules if rule["action"] == action] == [[2, 3]]


def test_the_lines_of_the_crontab_run_last_night_and_catch_up(place: Path) -> None:
    lines = [line for line in (FOLDER / "crontab").read_text().splitlines() if line[:1].isdigit()]
    commands = [line.split(None, 5)[5].replace("\\%", "%") for line in lines]
    assert len(commands) == 2
    for command in commands:
        here = (
            command.replace("cd /srv/jobs", "true")
            .replace("/var/log/", "")
            .replace("/var/lib/node_exporter/textfile/", "")
        )
        assert shell(place, here) == 0, (place / "batchinfer.log").read_text()
    assert sorted(os.listdir(place / "out")) == sorted(day(n) for n in range(1, 8))
    assert "batchinfer_exit_code" in (place / "batchinfer.prom").read_text()
