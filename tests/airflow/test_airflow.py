"""The operators in a real Airflow with SQLite: `nox -s airflow`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).parents[2]
DAY = "2026-11-02"
MODEL = """
import time


class Double:
    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __call__(self, batch):
        time.sleep(self.seconds)
        for x in batch["x"]:
            if x < 0:
                raise ValueError("x is negative")
        return {"y": batch["x"] * 2}
"""
JOB = """
version: 1
name: daily
params: {day: null}
code: [code]
input: {path: "in/${params.day}", key: id}
model:
  engine: python
  uri: doubling:Double
  inputs: {x: x}
  outputs: {y: {column: y, type: int64}}
  options: {seconds: SECONDS}
batching: {rows: 10, window: 50, shard: 50}
checkpoint: {interval: 200ms}
output: {path: "out/${params.day}"}
"""


@pytest.fixture(scope="session", autouse=True)
def _airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An Airflow of the tests' own, with its database."""
    home = tmp_path_factory.mktemp("airflow")
    mine = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "PYTHONPATH": str(ROOT),
        "BATCHINFER_CACHE": str(home / "cache"),
    }
    (home / "dags").mkdir()
    former = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    yield
    for name, value in former.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a daily job, with the input of one day."""
    monkeypatch.setenv("BATCHINFER_JOBS", str(tmp_path))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "doubling.py").write_text(MODEL)
    write(tmp_path)
    return tmp_path


def write(place: Path, rows: int = 100, bad: int | None = None, seconds: float = 0.0) -> None:
    (place / "daily.yaml").write_text(JOB.replace("SECONDS", str(seconds)))
    (place / "in" / DAY).mkdir(parents=True, exist_ok=True)
    x = [-1 if n == bad else n for n in range(rows)]
    pq.write_table(pa.table({"id": range(rows), "x": pa.array(x, pa.int64())}), place / "in" / DAY / "a.parquet")


def predicted(place: Path) -> list[int]:
    values: list[int] = pq.read_table(place / "out" / DAY / "data")["y"].to_pylist()
    return sorted(values)


def operator(place: Path, **more: Any) -> Any:
    from batchinfer.airflow import BatchInferOperator

    return BatchInferOperator(task_id="run", job=str(place / "daily.yaml"), job_params={"day": DAY}, **more)


def states_of(source: str) -> dict[str, str]:
    """States of the tasks of a DAG, by its source, after a run of one day."""
    import importlib.util

    from airflow.sdk import DAG

    file = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"], "dag_under_test.py")
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("dag_under_test", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (dag,) = [value for value in vars(module).values() if isinstance(value, DAG)]
    run = dag.test(logical_date=datetime.fromisoformat(DAY).replace(tzinfo=UTC))
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


def test_parsing_a_dag_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, runpy; runpy.run_path(sys.argv[1]); "
        "print([n for n in ('torch', 'ray', 'polars', 'pyarrow', 'transformers') if n in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "jobs/schedulers/airflow_dag.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_day_is_planned_run_and_verified_by_the_example(place: Path) -> None:
    found = states_of((ROOT / "jobs/schedulers/airflow_dag.py").read_text())
    assert found == dict.fromkeys(("score.plan", "score.run", "score.verify"), "success")
    assert predicted(place) == [2 * n for n in range(100)]


@pytest.mark.parametrize(("bad", "code"), [(3, 3), (None, 2)])
def test_what_would_come_again_is_not_tried_again(place: Path, bad: int | None, code: int) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    write(place, bad=bad)
    if code == 2:
        (place / "in" / DAY / "a.parquet").unlink()
    with pytest.raises(AirflowFailException, match=f"exit code {code}: "):
        operator(place).execute({})


@pytest.mark.parametrize(
    ("code", "kind"), [(75, "AirflowException"), (1, "AirflowException"), (99, "AirflowSkipException")]
)
def test_other_codes_are_tried_again_or_skipped(code: int, kind: str) -> None:
    from airflow.sdk import exceptions

    from batchinfer.airflow import judge

    with pytest.raises(exceptions.AirflowException) as raised:
        judge(code, ["why"])
    assert type(raised.value) is getattr(exceptions, kind)
    judge(0, [])


def test_xcom_is_small_and_a_second_execution_repeats_it(place: Path) -> None:
    first = operator(place).execute({})
    assert first["rows"]["succeeded"] == 100
    assert len(json.dumps(first)) < 1000
    again = operator(place).execute({})
    assert (again["state"], again["rows"]) == (first["state"], first["rows"])


def test_a_killed_task_checkpoints_and_the_next_try_goes_on(place: Path) -> None:
    from airflow.sdk.exceptions import AirflowException

    write(place, rows=400, seconds=0.2)
    task, raised = operator(place), []

    def execute() -> None:
        try:
            task.execute({})
        except AirflowException as error:
            raised.append(error)

    running = threading.Thread(target=execute)
    running.start()
    wait_for(lambda: list((place / "out" / DAY / "data").glob("*.parquet")))
    task.on_kill()
    running.join(30)
    assert "exit code 75" in str(raised[0])
    standing = len(list((place / "out" / DAY / "data").glob("*.parquet")))
    assert 0 < standing < 8
    assert operator(place).execute({})["rows"]["succeeded"] == 400
    assert predicted(place) == [2 * n for n in range(400)]


def wait_for(what: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def deferred(place: Path) -> Any:
    """The trigger that a deferrable task leaves."""
    from airflow.sdk.exceptions import TaskDeferred

    with pytest.raises(TaskDeferred) as left:
        operator(place, deferrable=True, poll_seconds=0.5).execute({})
    return left.value.trigger


def event_of(trigger: Any) -> dict[str, Any]:
    async def first() -> Any:
        return (await anext(aiter(trigger.run()))).payload

    payload: dict[str, Any] = asyncio.run(first())
    return payload


def test_a_deferred_run_goes_on_without_its_task_and_any_triggerer_hears_of_its_end(place: Path) -> None:
    import importlib

    write(place, rows=200, seconds=0.2)
    path, given = deferred(place).serialize()
    assert json.loads(json.dumps(given)) == given, "it goes through the database"
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**given)
    event = event_of(again)
    assert event["exit_code"] == 0
    assert operator(place).execute_complete({}, event)["rows"]["succeeded"] == 200
    assert predicted(place) == [2 * n for n in range(200)]


def test_a_second_try_of_a_deferred_task_waits_for_the_run_that_is_alive(place: Path) -> None:
    write(place, rows=200, seconds=0.3)
    deferred(place)
    trigger = deferred(place)
    assert event_of(trigger)["exit_code"] == 0
    assert len(list((place / "out" / DAY / "_batchinfer").glob("*/epochs/*.json"))) == 1


def test_a_deferred_run_whose_runner_is_gone_is_tried_again(place: Path) -> None:
    import signal

    from airflow.sdk.exceptions import AirflowException

    from batchinfer import open_run

    write(place, rows=400, seconds=0.3)
    trigger = deferred(place)
    runner = open_run(place / "out" / DAY).runner()
    assert runner is not None
    os.kill(int(runner.owner.split()[1]), signal.SIGKILL)
    event = event_of(trigger)
    assert event["exit_code"] == 75
    with pytest.raises(AirflowException, match="the runner is gone"):
        operator(place).execute_complete({}, event)


def test_a_deferred_run_ends_in_order_when_a_user_kills_its_task(place: Path) -> None:
    write(place, rows=1000, seconds=0.3)
    trigger = deferred(place)
    asyncio.run(trigger.on_kill())
    assert event_of(trigger)["exit_code"] == 130


def test_overrides_that_move_the_output_count_wherever_it_is_looked_at(place: Path) -> None:
    from batchinfer.airflow import BatchInferVerifyOperator

    elsewhere = [f"output.path={place}/elsewhere"]
    operator(place).execute({})  # what stands at the job file's own output is another run's
    given = {"set_values": elsewhere, "deferrable": True, "poll_seconds": 0.5}
    write(place, rows=60, seconds=0.2)
    from airflow.sdk.exceptions import TaskDeferred

    with pytest.raises(TaskDeferred) as left:
        operator(place, **given).execute({})
    event = event_of(left.value.trigger)
    assert (event["exit_code"], event["result"]["rows"]["planned"]) == (0, 60)
    assert operator(place, **given).execute({})["rows"]["planned"] == 60, "it was done before, and is not deferred"
    verify = BatchInferVerifyOperator(
        task_id="verify", job=f"{place}/daily.yaml", job_params={"day": DAY}, set_values=elsewhere
    )
    assert verify.execute({})["rows"]["planned"] == 60


def test_a_deferrable_task_in_a_dag(place: Path) -> None:
    write(place, rows=100, seconds=0.1)
    source = (ROOT / "jobs/schedulers/airflow_dag.py").read_text()
    found = states_of(source.replace('job_group("score", ', 'job_group("score", deferrable=True, '))
    assert found == dict.fromkeys(("score.plan", "score.run", "score.verify"), "success")
    assert predicted(place) == [2 * n for n in range(100)]
