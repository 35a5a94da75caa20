"""Runs as MLflow keeps them: in a real database, in a folder, and behind a real server."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import pytest
from mlflow.entities import Run as Logged
from mlflow.tracking import MlflowClient

from batchinfer import Job
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.report import MlflowRun
from batchinfer.job.secrets import Secrets
from batchinfer.ledger.parts import Counts
from batchinfer.report.mlflow import EVERY_SECONDS, MlflowListener
from batchinfer.run.events import Started, Ticked
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import open_store
from batchinfer.worker.context import Progress
from tests.run.workplace import PROGRAM, Workplace


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow's; to make one takes seconds. Artifacts go below the folder in which it is made."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # where MLflow keeps artifacts of such a database
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    shutil.copy(empty, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def logged(uri: str, experiment: str = "Default") -> list[Logged]:
    """The runs, in their order."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], order_by=["start_time"]))


def asked(uri: str, **more: Any) -> dict[str, Any]:
    return {"html": False, "mlflow": {"tracking_uri": uri, "timeout": "60s", **more}}


def artifacts(uri: str, run: Logged) -> list[str]:
    return [file.path for file in MlflowClient(uri).list_artifacts(run.info.run_id)]


def test_a_run_is_logged_with_what_it_was_and_what_it_came_to(workplace: Workplace, database: str) -> None:
    workplace.write(1000)
    run = workplace.run(
        resources={"price_per_hour": 3600.0},
        report=asked(database, experiment="nightly", run_name="by hand", tags={"team": "search", "n": 1}),
    )
    (found,) = logged(database, "nightly")
    assert (found.info.status, found.info.run_name) == ("FINISHED", "by hand")
    parameters = found.data.params
    assert parameters["job"] == "doubling"
    assert parameters["input"] == str(workplace.folder / "input")
    assert parameters["model"] == "python doubling:Double"
    assert (parameters["precision"], parameters["executor"], parameters["workers"]) == ("native", "inline", "1")
    tags = found.data.tags
    assert (tags["team"], tags["n"], tags["batchinfer.job"]) == ("search", "1", run.job8)
    assert tags["batchinfer.output"] == str(workplace.folder / "output")
    assert len(tags["batchinfer.fingerprint"]) == 64
    metrics = found.data.metrics
    assert (metrics["rows_planned"], metrics["rows_succeeded"], metrics["rows_dead"]) == (1000, 1000, 0)
    assert metrics["seconds"] > 0
    assert metrics["rows_per_second"] > 0
    assert metrics["seconds_infer"] > 0
    assert metrics["cost"] == pytest.approx(metrics["device_seconds"], abs=0.01)
    assert artifacts(database, found) == ["run_results.json"]
    kept = MlflowClient(database).download_artifacts(found.info.run_id, "run_results.json")
    assert (
        Path(kept).read_bytes()
        == next((workplace.folder / "output").glob("_batchinfer/*/run_results.json")).read_bytes()
    )


def test_the_page_about_the_run_is_kept_too(workplace: Workplace, database: str) -> None:
    workplace.write(1000)
    workplace.run(report={**asked(database), "html": True})
    (found,) = logged(database)
    assert artifacts(database, found) == ["report.html", "run_results.json"]


def test_dead_rows_over_the_threshold_and_a_model_that_cannot_be_loaded_are_failed(
    workplace: Workplace, database: str
) -> None:
    workplace.write(1000, bad={7})
    assert workplace.run(report=asked(database)).exit_code == 3
    workplace.edit("self.delay, self.log = delay, log", "raise OSError('no weights')")
    with pytest.raises(ModelError):
        workplace.run(restart=True, report=asked(database))
    first, second = logged(database)
    assert (first.info.status, first.data.metrics["rows_dead"]) == ("FAILED", 1)
    assert (second.info.status, second.data.metrics["rows_not_attempted"]) == ("FAILED", 1000)


def test_an_interrupted_run_is_killed_and_the_one_that_goes_on_another_of_the_same_job(
    workplace: Workplace, database: str
) -> None:
    workplace.write(6000)
    slow: dict[str, Any] = {"model": {"options": {"delay": 0.02}}, "report": asked(database)}
    assert workplace.run(run={"max_runtime": "1s"}, **slow).exit_code == 75
    assert workplace.run(**slow).exit_code == 0
    first, second = logged(database)
    assert (first.info.status, second.info.status) == ("KILLED", "FINISHED")
    assert first.data.tags["batchinfer.job"] == second.data.tags["batchinfer.job"]
    assert [r.data.tags["batchinfer.runner"] for r in (first, second)] == ["1", "2"]
    assert workplace.run(**slow).exit_code == 0
    assert len(logged(database)) == 2  # a complete job is not run again


def test_the_models_of_several_steps_are_told_apart(workplace: Workplace, database: str) -> None:
    workplace.write(100)
    step = {"engine": "python", "uri": "doubling:Double"}
    steps = [
        {"name": "first", **step, "inputs": {"x": "x"}, "outputs": {"y": "y"}},
        {"name": "second", **step, "inputs": {"x": "y"}, "outputs": {"y": "z"}},
    ]
    workplace.run(steps=steps, report=asked(database))
    (found,) = logged(database)
    assert found.data.params["first.model"] == found.data.params["second.model"] == "python doubling:Double"
    assert found.data.params["second.precision"] == "native"


def test_figures_are_logged_over_time_but_not_more_often_than_is_useful(workplace: Workplace, database: str) -> None:
    workplace.write(1000)
    plan = Job(**workplace.fields()).plan()
    now = [0.0]
    listener = MlflowListener(
        plan.spec,
        open_store(str(workplace.folder / "output")),
        MlflowRun(tracking_uri=database, timeout=60),
        Secrets(),
        lambda: now[0],
    )
    listener(Started(plan, JobPaths("0" * 8), 1, Counts(), "inline", 0, 0))
    for second in range(int(3 * EVERY_SECONDS)):
        while not listener._outbox.is_idle:
            time.sleep(0.01)
        now[0] = float(second)
        listener(Ticked([Progress(0, in_hand=second)], 0, 0))
    listener.close()
    (found,) = logged(database)
    history = MlflowClient(database).get_metric_history(found.info.run_id, "rows_done")
    assert [(m.step, m.value) for m in history] == [(0, 0), (10, 10), (20, 20)]


def test_variables_say_where_and_which_run_it_is(
    workplace: Workplace, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.write(100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the environment")
    workplace.run(report={"mlflow": {"timeout": "60s"}})
    (found,) = logged(database, "of the environment")
    assert found.info.run_name == "doubling"
    client = MlflowClient(database)
    mine = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", mine)
    workplace.run(restart=True, report={"mlflow": {"timeout": "60s"}})
    found = client.get_run(mine)
    assert (found.info.status, found.data.params["job"]) == ("FINISHED", "doubling")
    assert len(logged(database, "of the environment")) == 1


def test_no_secret_is_logged(workplace: Workplace, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2hunter2")
    workplace.write(100)
    workplace.run(report=asked(database, tags={"note": "by hunter2hunter2"}))
    (found,) = logged(database)
    assert found.data.tags["note"] == "by [hidden]"
    assert b"hunter2" not in (workplace.folder / "mlflow.db").read_bytes()


def test_a_server_that_is_down_neither_fails_nor_holds_up_the_run(
    workplace: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    workplace.write(1000)
    job = Job(
        **workplace.fields(report={"mlflow": {"tracking_uri": f"http://127.0.0.1:{free_port()}", "timeout": "1s"}})
    )
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        assert job.run().exit_code == 0
    assert time.monotonic() - began < 20
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert told == ["mlflow: not everything has arrived within 1 s of the run's end; the run goes on"]


def test_a_place_that_cannot_be_is_warned_of_and_the_job_is_run(
    workplace: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    workplace.write(100)
    assert workplace.run(report=asked("nonsense://there")).exit_code == 0
    assert [r.getMessage().startswith("mlflow: ") for r in caplog.records if r.levelno >= logging.WARNING] == [True]


def test_a_relative_folder_is_one_beside_the_job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    workplace = Workplace(tmp_path)
    workplace.write(100)
    monkeypatch.chdir(tmp_path)
    assert workplace.run(report=asked("runs")).exit_code == 0
    assert len(logged(str(tmp_path / "runs"))) == 1


def test_without_mlflow_a_job_that_asks_for_it_is_refused(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    workplace.write(100)
    with pytest.raises(MissingExtraError, match=r"pip install 'batchinfer\[mlflow\]'"):
        workplace.run(report={"mlflow": {}})


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def server(empty: Path, tmp_path: Path) -> Iterator[str]:
    """MLflow's own, with a database and artifacts behind it."""
    shutil.copy(empty, tmp_path / "server.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        f"{tmp_path}/artifacts",
    ]
    log = (tmp_path / "server.log").open("w")
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen([*command, *store], stdout=log, stderr=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"{url}/health"):
                    break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.mark.slow
def test_a_run_of_another_process_is_logged_to_a_server(workplace: Workplace, server: str) -> None:
    workplace.write(1000)
    fields = workplace.fields(report=asked(server, experiment="served"))
    done = subprocess.run([sys.executable, "-c", PROGRAM, "run", json.dumps(fields)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (found,) = logged(server, "served")
    assert found.info.status == "FINISHED"
    assert found.data.metrics["rows_succeeded"] == 1000
    assert artifacts(server, found) == ["run_results.json"]
