"""The page about OpenLineage and MLflow: its job files load, its programs run, and what they send arrives."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from batchinfer.errors import MissingExtraError
from batchinfer.job.load import load_text
from batchinfer.job.report import MlflowRun, OpenLineage, Report
from batchinfer.report import reporters
from tests.jobs.test_examples import JOBS

PAGE = (JOBS / "pages" / "lineage.md").read_text()

GOOD = """
version: 1
name: reviews
input: {path: in/}
model: {engine: python, uri: "module:Class", inputs: {x: x}, outputs: {y: y}}
output: {path: out/}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_its_job_files_load() -> None:
    loaded = [
        load_text(GOOD + b, "job.yaml", "/jobs", environ={"KAFKA_PASSWORD": "x" * 8}).report for b in blocks("yaml")
    ]
    url, kafka, mlflow = loaded
    assert isinstance(url.openlineage, OpenLineage)
    assert (url.openlineage.namespace, url.openlineage.job) == ("search", "reviews.embeddings")
    assert isinstance(kafka.openlineage, OpenLineage)
    assert kafka.openlineage.transport is not None
    assert kafka.openlineage.transport["type"] == "kafka"
    assert isinstance(mlflow.mlflow, MlflowRun)


def test_its_defaults_are_the_job_files() -> None:
    report = Report(openlineage=OpenLineage(), mlflow=MlflowRun())
    for section, model in (("openlineage", report.openlineage), ("mlflow", report.mlflow)):
        told = re.search(rf"{section}:.*?timeout: (\d+)s", PAGE, re.DOTALL)
        assert told is not None
        assert float(told[1]) == model.timeout  # type: ignore[union-attr]


def test_its_extras_are_those_that_a_refusal_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, section in (("openlineage", "openlineage: {url: 'http://a'}"), ("mlflow", "mlflow: {}")):
        spec = load_text(f"{GOOD}report: {{{section}}}\n", "job.yaml", "/jobs")
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError) as caught:
            reporters.check(spec)
        assert f"pip install 'batchinfer[{caught.value.extra}]'" in PAGE


def test_its_receiver_shows_what_its_command_sends(tmp_path: Path) -> None:
    shutil.copytree(JOBS, tmp_path / "jobs", ignore=shutil.ignore_patterns("out", "generated", "__pycache__"))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    install, *command = blocks("sh")[0].replace("localhost:5000", f"127.0.0.1:{port}").splitlines()
    assert install == "pip install 'batchinfer[openlineage]'"
    _, program = blocks("python")
    shown = (tmp_path / "shown").open("w+")
    receiver = subprocess.Popen(
        [sys.executable, "-c", program.replace("5000", port)], stdout=shown, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_open(int(port))
        (tmp_path / "batchinfer").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m batchinfer "$@"\n')
        (tmp_path / "batchinfer").chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(JOBS.parent)}
        done = subprocess.run(
            ["sh", "-ec", "\n".join(command)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    finally:
        receiver.terminate()
        receiver.wait()
    shown.seek(0)
    lines = shown.read().splitlines()
    assert [line.split()[0] for line in lines] == ["START", "COMPLETE"]
    assert all(line.endswith("/data']") for line in lines)


def test_its_task_names_the_variables_that_a_run_reads() -> None:
    task, _ = blocks("python")
    called: dict[str, Any] = {}
    exec(task, {"BashOperator": lambda **given: called.update(given)})
    from batchinfer.report.lineage import events

    parent = "airflow/nightly.embed/01a220fd-35b8-7d89-b43c-104a7ea9ea41"
    who = events.identity(load_text(GOOD, "job.yaml", "/jobs"), OpenLineage(), dict.fromkeys(called["env"], parent))
    assert who.parent is not None
    assert who.parent.root is not None


def wait_until_open(port: int) -> None:
    for _ in range(200):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the receiver did not open its port")
