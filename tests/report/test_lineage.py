"""Events of real runs, by Python, as a real HTTP receiver gets them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchinfer
from batchinfer import Job, Run
from batchinfer.errors import InputError, LockedError, MissingExtraError, ModelError, RefusedError
from batchinfer.run.events import Event, Started
from tests.report.receiver import Receiver, mistakes
from tests.run.workplace import Workplace, chunks, wait_for


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """The variables of before, without what OpenLineage's client adds to them."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as open_one:
        yield open_one


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def told(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"html": False, "openlineage": {"url": receiver.url, "namespace": "prod", "timeout": "60s", **more}}


def ids(receiver: Receiver) -> list[str]:
    return [event["run"]["runId"] for event in receiver.events]


def test_a_run_that_ends_well_is_a_start_and_a_complete_with_what_it_read_and_wrote(
    workplace: Workplace, receiver: Receiver
) -> None:
    workplace.write(3000)
    run = workplace.run(
        report=told(receiver),
        metadata={"team": "search"},
        input={"where": "id >= 1000"},
        output={"carry": ["id"]},
        resources={"price_per_hour": 3600.0},
    )
    assert run.exit_code == 0
    assert receiver.kinds == ["START", "COMPLETE"]
    assert [mistakes(event) for event in receiver.events] == [[], []]
    start, end = receiver.events
    assert start["run"]["runId"] == end["run"]["runId"]
    assert start["eventTime"] < end["eventTime"]
    producers = {
        end["producer"],
        *(f["_producer"] for v in (*end["inputs"], *end["outputs"]) for f in v["facets"].values()),
    }
    assert len(producers) == 1
    assert "batchinfer" in producers.pop()
    assert (end["job"]["namespace"], end["job"]["name"]) == ("prod", "doubling")
    assert end["job"]["facets"]["jobType"]["processingType"] == "BATCH"
    assert [(t["key"], t["value"]) for t in end["job"]["facets"]["tags"]["tags"]] == [("team", "search")]
    assert end["run"]["facets"]["processing_engine"]["name"] == "batchinfer"
    said = end["run"]["facets"]["batchinfer_run"]
    assert (said["job"], said["epoch"], said["exit_code"], said["rows"]["filtered"]) == (run.job8, 1, 0, 1000)
    assert said["cost"] == pytest.approx(said["device_seconds"], abs=0.01)
    assert said["device_seconds"] > 0
    assert said["models"] == {"model": "python doubling:Double"}
    assert said["precision"] == {"model": "native"}

    (source,) = end["inputs"]
    assert (source["namespace"], source["name"]) == ("file", str(workplace.folder / "input"))
    assert source["facets"]["dataSource"]["name"] == "file"
    assert [(f["name"], f["type"]) for f in source["facets"]["schema"]["fields"]] == [("id", "int64"), ("x", "int64")]
    # The footer rules out the first group of 1000 rows, which is not read.
    size = (workplace.folder / "input" / "a.parquet").stat().st_size
    read = source["inputFacets"]["inputStatistics"]
    assert (read["rowCount"], read["size"], read["fileCount"]) == (2000, size, 1)
    assert source["inputFacets"]["dataQualityAssertions"]["assertions"][0]["success"] is True

    (target,) = end["outputs"]
    folder = workplace.folder / "output" / "data"
    assert (target["namespace"], target["name"]) == ("file", str(folder))
    schema = pq.read_schema(next(folder.glob("*.parquet")))
    assert [(f["name"], f["type"]) for f in target["facets"]["schema"]["fields"]] == [
        (f.name, str(f.type)) for f in schema
    ]
    written = target["outputFacets"]["outputStatistics"]
    parts = list(folder.glob("*.parquet"))
    assert (written["rowCount"], written["fileCount"]) == (2000, len(parts))
    assert written["size"] == sum(part.stat().st_size for part in parts)
    lineage = target["facets"]["columnLineage"]
    assert {name: value["inputFields"][0]["field"] for name, value in lineage["fields"].items()} == {
        "id": "id",
        "y": "x",
    }
    assert [field["field"] for field in lineage["dataset"]] == ["id"]


def test_dead_rows_over_the_threshold_are_a_fail_with_the_reason_and_the_dead_letters(
    workplace: Workplace, receiver: Receiver
) -> None:
    workplace.write(1000, bad={3, 4})
    assert workplace.run(report=told(receiver)).exit_code == 3
    assert receiver.kinds == ["START", "FAIL"]
    end = receiver.events[1]
    assert mistakes(end) == []
    assert "2 dead rows" in end["run"]["facets"]["errorMessage"]["message"]
    (check,) = end["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (check["success"], check["expected"], check["actual"]) == (False, "0", "2")
    data, letters = end["outputs"]
    assert data["outputFacets"]["outputStatistics"]["rowCount"] == 998
    assert letters["name"] == str(workplace.folder / "output" / "_dead_letter")
    assert letters["outputFacets"]["outputStatistics"]["rowCount"] == 2


def test_a_retry_that_mends_them_is_a_run_of_its_own(workplace: Workplace, receiver: Receiver) -> None:
    workplace.write(1000, bad={3, 4})
    workplace.run()
    workplace.mend()
    assert workplace.retry(report=told(receiver)).exit_code == 0
    assert receiver.kinds == ["START", "COMPLETE"]
    assert receiver.events[1]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 1000


def test_an_interrupted_run_is_an_abort_and_the_one_that_goes_on_another_run_of_the_job(
    workplace: Workplace, receiver: Receiver
) -> None:
    workplace.write(6000)
    slow: dict[str, Any] = {"model": {"options": {"delay": 0.02}}}
    assert workplace.run(run={"max_runtime": "1s"}, report=told(receiver), **slow).exit_code == 75
    assert receiver.kinds == ["START", "ABORT"]
    assert "max_runtime" in receiver.events[1]["run"]["facets"]["errorMessage"]["message"]
    run = workplace.run(report=told(receiver), **slow)
    assert run.exit_code == 0
    assert receiver.kinds == ["START", "ABORT", "START", "COMPLETE"]
    first, _, second, last = receiver.events
    assert first["job"]["name"] == second["job"]["name"]
    assert first["run"]["runId"] != second["run"]["runId"]
    facets = [event["run"]["facets"]["batchinfer_run"] for event in (first, second)]
    assert [(f["job"], f["epoch"]) for f in facets] == [(run.job8, 1), (run.job8, 2)]
    assert last["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 6000


def test_an_extension_that_comes_after_what_was_left_belongs_to_the_same_run(
    workplace: Workplace, receiver: Receiver
) -> None:
    workplace.write(6000)
    slow: dict[str, Any] = {"model": {"options": {"delay": 0.02}}}
    assert workplace.run(run={"max_runtime": "1s", "inputs_changed": "extend"}, **slow).exit_code == 75
    workplace.write(1000, name="b", start=6000)
    events: list[Event] = []
    run = workplace.run(run={"inputs_changed": "extend"}, report=told(receiver), events=events, **slow)
    assert (run.exit_code, sum(isinstance(event, Started) for event in events)) == (0, 2)
    assert receiver.kinds == ["START", "COMPLETE"]
    assert receiver.events[1]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 7000


def test_a_run_that_was_killed_is_aborted_by_the_one_that_goes_on(workplace: Workplace, receiver: Receiver) -> None:
    workplace.write(6000)
    slow: dict[str, Any] = {"model": {"options": {"delay": 0.02}}, "checkpoint": {"interval": "200ms"}}
    process = workplace.start(report=told(receiver), **slow)
    wait_for(lambda: chunks(workplace), process)
    process.kill()
    process.communicate()
    assert receiver.kinds == ["START"]
    assert workplace.run(report=told(receiver), **slow).exit_code == 0
    assert sorted(receiver.kinds) == ["ABORT", "COMPLETE", "START", "START"]
    (abort,) = [event for event in receiver.events if event["eventType"] == "ABORT"]
    assert mistakes(abort) == []
    assert abort["run"]["runId"] == ids(receiver)[0]
    assert "killed" in abort["run"]["facets"]["errorMessage"]["message"]


def test_a_run_that_is_refused_is_a_start_and_a_fail_by_the_names_in_the_job_file(
    workplace: Workplace, receiver: Receiver
) -> None:
    with pytest.raises(InputError):
        workplace.run(report=told(receiver))
    assert receiver.kinds == ["START", "FAIL"]
    assert [mistakes(event) for event in receiver.events] == [[], []]
    start, end = receiver.events
    assert start["run"]["runId"] == end["run"]["runId"]
    assert end["inputs"][0]["name"] == str(workplace.folder / "input")
    assert "input" in end["run"]["facets"]["errorMessage"]["message"]


def test_a_model_that_cannot_be_loaded_is_a_fail(workplace: Workplace, receiver: Receiver) -> None:
    workplace.write(10)
    workplace.edit("self.delay, self.log = delay, log", "raise OSError('no weights')")
    with pytest.raises(ModelError):
        workplace.run(report=told(receiver))
    assert receiver.kinds == ["START", "FAIL"]
    facets = receiver.events[1]["run"]["facets"]
    assert "no weights" in facets["errorMessage"]["message"]
    assert (facets["batchinfer_run"]["rows"]["not_attempted"], facets["batchinfer_run"]["exit_code"]) == (10, 2)
    assert facets["batchinfer_run"]["job_device_seconds"] >= 0


def test_running_a_complete_job_again_is_a_complete_of_the_same_output(
    workplace: Workplace, receiver: Receiver
) -> None:
    workplace.write(1000)
    workplace.run()  # nobody was told, and that says nothing of which job it is
    assert workplace.run(report=told(receiver)).exit_code == 0
    assert receiver.kinds == ["START", "COMPLETE"]
    assert receiver.events[1]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 1000


def test_a_run_that_finds_another_one_at_work_tells_nothing(workplace: Workplace, receiver: Receiver) -> None:
    workplace.write(6000)
    slow: dict[str, Any] = {"model": {"options": {"delay": 0.05}}, "checkpoint": {"interval": "200ms"}}
    process = workplace.start(**slow)
    try:
        wait_for(lambda: chunks(workplace), process)
        with pytest.raises(LockedError):
            workplace.run(report=told(receiver), **slow)
    finally:
        process.kill()
        process.communicate()
    assert receiver.kinds == []


def run_beside(workplace: Workplace, url: str, caplog: pytest.LogCaptureFixture) -> tuple[Run, float, list[str]]:
    """The run, its seconds, and what was warned of OpenLineage."""
    workplace.write(1000)
    job = Job(**workplace.fields(report={"openlineage": {"url": url, "timeout": "1s"}}))
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        run = job.run()
        seconds = time.monotonic() - began
    return run, seconds, [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_receiver_that_is_down_neither_fails_nor_holds_up_the_run(
    workplace: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver() as closed:
        pass
    run, seconds, warnings = run_beside(workplace, closed.url, caplog)
    assert (run.exit_code, run.counts.succeeded) == (0, 1000)
    assert seconds < 15
    assert len(warnings) == 1
    assert "the run goes on" in warnings[0]


def test_a_receiver_that_does_not_answer_holds_up_the_end_for_as_long_as_is_allowed(
    workplace: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver(delay=60) as slow:
        run, seconds, warnings = run_beside(workplace, slow.url, caplog)
    assert run.exit_code == 0
    assert seconds < 15
    assert warnings == ["openlineage: not everything has arrived within 1 s of the run's end; the run goes on"]


def test_a_receiver_that_fails_is_told_of_once(workplace: Workplace, caplog: pytest.LogCaptureFixture) -> None:
    with Receiver(status=422) as broken:  # which the client doesn't try again
        run, _, warnings = run_beside(workplace, broken.url, caplog)
        assert run.exit_code == 0
        assert broken.kinds == ["START", "COMPLETE"]
    assert len(warnings) == 1
    assert "422" in warnings[0]


def test_a_receiver_that_fails_for_a_moment_gets_the_event_again(workplace: Workplace) -> None:
    workplace.write(1000)
    with Receiver(status=500) as broken:
        broken.delay = 0.3

        class Mends(list[str]):
            def append(self, body: str) -> None:
                broken.status = 500 if not self else 201
                super().append(body)

        broken.bodies = Mends()
        assert workplace.run(report=told(broken, timeout="20s")).exit_code == 0
        assert broken.kinds == ["START", "START", "COMPLETE"]


def test_no_secret_is_in_any_event(workplace: Workplace, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "opaque-7f3a9c")
    monkeypatch.setenv("DB_PASSWORD", "hunter2hunter2")
    monkeypatch.setenv("OPENLINEAGE__FACETS__ENVIRONMENT_VARIABLES", '["DB_PASSWORD"]')
    workplace.write(100)
    workplace.edit("self.delay, self.log = delay, log", "raise OSError(f'{log}, hunter2hunter2, AKIAIOSFODNN7EXAMPLE')")
    with pytest.raises(ModelError):
        workplace.run(
            report=told(receiver),
            params={"tag": "${SOME_VARIABLE}", "day": "2026-11-28"},
            metadata={"note": "${SOME_VARIABLE}"},
            model={"options": {"log": "${SOME_VARIABLE}"}},
        )
    assert receiver.kinds == ["START", "FAIL"]
    assert [mistakes(event) for event in receiver.events] == [[], []]
    end = receiver.events[1]["run"]["facets"]
    given = {p["key"]: p["value"] for p in end["executionParameters"]["parameters"]}
    assert given == {"tag": "[hidden]", "day": "2026-11-28"}
    assert "[hidden]" in end["errorMessage"]["message"]
    assert end["environmentVariables"]["environmentVariables"] == [{"name": "DB_PASSWORD", "value": "[hidden]"}]
    for body in receiver.bodies:
        assert "opaque-7f3a9c" not in body
        assert "hunter2hunter2" not in body
        assert "AKIAIOSFODNN7EXAMPLE" not in body


def test_the_key_goes_to_the_receiver_alone(
    workplace: Workplace, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "key-of-the-receiver")
    monkeypatch.setenv("OPENLINEAGE_ENDPOINT", "lineage/in")
    workplace.write(100)
    workplace.run(report=told(receiver))
    assert receiver.keys == ["Bearer key-of-the-receiver"] * 2
    assert receiver.paths == ["/lineage/in"] * 2
    assert "key-of-the-receiver" not in "".join(receiver.bodies)


def test_a_run_in_the_background_is_told_of_too(workplace: Workplace, receiver: Receiver) -> None:
    workplace.write(1000)
    run = Job(**workplace.fields(report=told(receiver))).run(background=True)
    assert run.wait().exit_code == 0
    assert receiver.kinds == ["START", "COMPLETE"]


def test_rows_of_a_frame_in_memory_are_nobodys_dataset(
    workplace: Workplace, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", receiver.url)
    fields = workplace.fields()
    batchinfer.map(pa.table({"x": [1, 2]}), fields["model"], code=fields["code"])
    assert receiver.kinds == []
    workplace.write(100)
    workplace.run()
    assert receiver.kinds == ["START", "COMPLETE"]


def test_of_several_paths_each_has_its_own_rows(workplace: Workplace, receiver: Receiver) -> None:
    workplace.write(300, name="a")
    workplace.write(500, name="b", start=300)
    paths = [str(workplace.folder / "input" / f"{name}.parquet") for name in ("a", "b")]
    workplace.run(report=told(receiver), input={"path": paths, "limit": 400})
    first, second = receiver.events[1]["inputs"]
    assert (first["name"], second["name"]) == tuple(paths)
    read = [i["inputFacets"]["inputStatistics"] for i in (first, second)]
    assert [(r["rowCount"], r["fileCount"]) for r in read] == [(300, 1), (100, 1)]


def test_a_transport_of_the_clients_own_is_taken_as_it_has_it(workplace: Workplace) -> None:
    workplace.write(100)
    transport = {"type": "file", "log_file_path": str(workplace.folder / "events"), "append": True}
    workplace.run(report={"openlineage": {"transport": transport}})
    lines = (workplace.folder / "events").read_text().splitlines()
    assert [line.count('"eventType": "') for line in lines] == [1, 1]


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        ({}, "nothing says where events go"),
        ({"url": "no address"}, "valid url"),
        ({"transport": {"type": "no.such.Transport"}}, "no.such.Transport"),
        ({"transport": {"type": "http"}}, "url"),
    ],
)
def test_a_way_that_leads_nowhere_is_refused_before_anything_is_run(
    workplace: Workplace, asked: dict[str, Any], wrong: str
) -> None:
    workplace.write(100)
    with pytest.raises(RefusedError, match=wrong):
        workplace.run(report={"openlineage": asked})
    assert not (workplace.folder / "output").exists()


def test_without_the_client_a_job_that_asks_for_events_is_refused_and_another_is_told(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openlineage", None)
    workplace.write(100)
    asked = Job(**workplace.fields(report={"openlineage": {"url": "http://127.0.0.1:9"}}))
    for verb in (asked.plan, asked.run):
        with pytest.raises(MissingExtraError, match=r"pip install 'batchinfer\[openlineage\]'"):
            verb()
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    assert workplace.run().exit_code == 0
    assert "isn't installed" in caplog.text
