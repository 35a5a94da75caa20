"""OpenLineage by the command line, configured as its own client is: by variables."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.report.receiver import Receiver, mistakes

PARENT, ROOT = "01a220fd-35b8-7d89-b43c-104a7ea9ea41", "01a220fd-35b8-7d89-b43c-104a7ea9ea42"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as open_one:
        yield open_one


@pytest.fixture
def variables(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """As Airflow's task has them whose `env` names its run by the macros of Airflow's provider."""
    given = {
        "OPENLINEAGE_URL": receiver.url,
        "OPENLINEAGE_API_KEY": "key-of-the-receiver",
        "OPENLINEAGE_NAMESPACE": "lake",
        "OPENLINEAGE_PARENT_ID": f"airflow://here/nightly.embed/{PARENT}",
        "OPENLINEAGE_ROOT_PARENT_ID": f"airflow/nightly/{ROOT}",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


def test_variables_alone_are_enough_and_the_run_is_a_part_of_the_schedulers(workplace, receiver, variables):
    workplace.write_job()
    done = workplace.program("run", "job.yaml", "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert receiver.kinds == ["START", "COMPLETE"]
    assert [mistakes(event) for event in receiver.events] == [[], []]
    assert receiver.keys == ["Bearer key-of-the-receiver"] * 2
    for event in receiver.events:
        assert (event["job"]["namespace"], event["job"]["name"]) == ("lake", "doubling")
        assert event["run"]["facets"]["batchinfer_run"]["job"] == result["job"]
        parent = event["run"]["facets"]["parent"]
        assert parent["run"]["runId"] == PARENT
        assert (parent["job"]["namespace"], parent["job"]["name"]) == ("airflow://here", "nightly.embed")
        assert parent["root"]["run"]["runId"] == ROOT
        assert (parent["root"]["job"]["namespace"], parent["root"]["job"]["name"]) == ("airflow", "nightly")


def test_sigterm_is_an_abort_and_its_exit_code_stays(workplace, receiver, variables):
    workplace.write_job(rows=400, seconds=0.05)
    process = workplace.start("run", "job.yaml", "--progress", "none")
    while len(list(workplace.output.glob("_batchinfer/*/wip/*/*.arrow"))) == 0:
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert receiver.kinds == ["START", "ABORT"]
    assert "SIGTERM" in receiver.events[1]["run"]["facets"]["errorMessage"]["message"]
    assert workplace.program("run", "job.yaml").returncode == 0
    assert receiver.kinds == ["START", "ABORT", "START", "COMPLETE"]


def test_each_day_of_several_is_a_run(workplace, receiver, variables):
    workplace.write_job()
    job = workplace.folder / "job.yaml"
    job.write_text(
        job.read_text()
        .replace("name: doubling", "name: doubling\nparams: {day: null}")
        .replace("{path: out}", "{path: 'out/${params.day}'}")
    )
    done = workplace.program("run", "job.yaml", "--param", "day=2026-11-01..2026-11-02")
    assert done.returncode == 0, done.stderr
    assert receiver.kinds == ["START", "COMPLETE"] * 2
    assert [e["outputs"][0]["name"].split("/")[-2] for e in receiver.events[::2]] == ["2026-11-01", "2026-11-02"]


def test_a_file_of_the_clients_is_enough_too(workplace, receiver):
    workplace.write_job()
    config = {"transport": {"type": "http", "url": receiver.url, "auth": {"type": "api_key", "apiKey": "of-the-file"}}}
    (workplace.folder / "openlineage.yml").write_text(json.dumps(config))
    done = workplace.program("run", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert (receiver.kinds, receiver.keys) == (["START", "COMPLETE"], ["Bearer of-the-file"] * 2)


def test_off_in_the_job_file_and_the_clients_own_switch_are_heard(workplace, receiver, variables, monkeypatch):
    workplace.write_job()
    assert workplace.program("run", "job.yaml", "--set", "report.openlineage=off").returncode == 0
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    assert workplace.program("run", "job.yaml", "--restart").returncode == 0
    assert receiver.kinds == []


def test_a_parent_that_is_none_and_a_url_that_is_none_are_warned_of_and_the_job_is_run(
    workplace, receiver, variables, monkeypatch
):
    workplace.write_job()
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", "airflow/nightly/manual__2026")
    done = workplace.program("run", "job.yaml")
    assert done.returncode == 0
    assert done.stderr.count("OPENLINEAGE_PARENT_ID is left out") == 1
    assert "parent" not in receiver.events[0]["run"]["facets"]
    monkeypatch.setenv("OPENLINEAGE_URL", "no address")
    done = workplace.program("run", "job.yaml", "--restart")
    assert done.returncode == 0
    assert done.stderr.count("no events are sent") == 1


def test_a_run_that_tells_nobody_imports_neither_client(workplace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # of a registry, which is no wish to log runs
    workplace.write_job()
    done = workplace.python(
        "import sys; from batchinfer import Job; assert Job.from_yaml('job.yaml').run().exit_code == 0; "
        "print([m for m in ('openlineage', 'mlflow', 'requests') if m in sys.modules])"
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_receiver_that_is_down_is_told_of_in_one_line(workplace, monkeypatch):
    with Receiver() as closed:
        monkeypatch.setenv("OPENLINEAGE_URL", closed.url)
    workplace.write_job()
    done = workplace.program("run", "job.yaml", "--progress", "none")
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if "openlineage" in line.lower() or "retry" in line.lower()]
    assert len(told) == 1, done.stderr
