"""What a run leaves about itself: run_results.json by its schema, and report.html beside it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from batchinfer import Job, Run, open_run
from batchinfer.errors import CircuitBreakerError, OutputError
from batchinfer.ledger import records
from batchinfer.report import reporting
from batchinfer.report.profile import Profile
from batchinfer.report.record import RunRecord, json_schema
from batchinfer.run.events import Event, Ticked
from batchinfer.run.stop import StopRequest
from tests.run.workplace import Workplace, wait_for

REPORT = {"report": {"html": True}}


def written(run: Run) -> dict[str, Any]:
    """The record as it stands, without its seal."""
    path = Path(run.path, "_batchinfer", run.job8, "run_results.json")
    value: dict[str, Any] = json.loads(path.read_text())
    del value["sha256"]
    return value


def conforms(value: dict[str, Any]) -> None:
    """It is what the published schema says, and has nothing that the schema doesn't."""
    jsonschema.validate(value, json_schema())
    known = RunRecord.model_validate(value).model_dump(mode="json")
    assert within(value, known) == []


def within(value: Any, known: Any, at: str = "") -> list[str]:
    """Where a value has a key that the models don't know."""
    if isinstance(value, dict) and isinstance(known, dict):
        return [
            k
            for key in value
            for k in ([f"{at}.{key}"] if key not in known else within(value[key], known[key], f"{at}.{key}"))
        ]
    if isinstance(value, list) and isinstance(known, list):
        return [k for a, b in zip(value, known, strict=True) for k in within(a, b, f"{at}[]")]
    return []


def page(run: Run) -> str:
    return Path(run.path, "_batchinfer", run.job8, "report.html").read_text()


def test_a_run_leaves_its_facts_by_the_published_schema(workplace: Workplace) -> None:
    workplace.write(5000, bad={7, 99})
    run = workplace.run(errors={"threshold": -1}, model={"options": {"delay": 0.002}})
    value = written(run)
    conforms(value)
    assert value["plan"]["rows"] == 5000
    assert value["models"].keys() == {"model"}
    assert value["throughput"][-1][1] == 5000
    (worker,) = value["crew"]
    assert (worker["rows"], worker["dead"]) == (5000, 2)
    assert worker["memory"] > 10_000_000
    stages = value["usage"]["seconds"]
    assert worker["seconds"]["infer"] == pytest.approx(stages["infer"], abs=0.01)
    assert 0.2 < stages["infer"] <= value["seconds"] - value["settled"] + 0.1
    assert sum(value["usage"]["steps"]["model"]["batch_rows"].values()) == value["usage"]["steps"]["model"]["batches"]
    assert {s["state"] for s in worker["segments"]} >= {"running"}
    letters = value["dead_letters"]
    assert (letters["rows"], letters["kinds"]) == (2, 1)
    (group,) = letters["groups"]
    assert (group["error_type"], group["rows"]) == ("TypeError", 2)
    assert [e["row"] for e in group["examples"]] == [7, 99]
    assert [c["name"] for c in value["predictions"]["now"]["columns"]] == ["y"]
    assert value["began"] <= value["ended"]


def test_the_page_lies_beside_it_and_says_the_same(workplace: Workplace) -> None:
    workplace.write(3000, bad={7})
    run = workplace.run(errors={"threshold": -1}, **REPORT)
    html = page(run)
    assert "2,999 succeeded" in html
    assert "TypeError" in html
    assert run.report() == f"{run.path}/_batchinfer/{run.job8}/report.html"
    assert page(run) == html  # of the same facts


def test_without_html_there_is_no_page_until_it_is_asked_for(workplace: Workplace, tmp_path: Path) -> None:
    workplace.write(100)
    run = workplace.run(report={"html": False})
    conforms(written(run))
    with pytest.raises(FileNotFoundError):
        page(run)
    assert run.report(to=tmp_path / "page.html") == str(tmp_path / "page.html")
    assert "100 succeeded" in (tmp_path / "page.html").read_text()
    with pytest.raises(FileNotFoundError):
        page(run)


def test_a_run_with_nothing_to_do_leaves_the_report_of_the_one_that_did_it(workplace: Workplace) -> None:
    workplace.write(100)
    first = workplace.run(**REPORT)
    before, value = page(first), written(first)
    again = workplace.run(**REPORT)
    assert (page(again), written(again)) == (before, value)


def test_a_job_that_is_begun_anew_shows_the_predictions_of_the_one_before(workplace: Workplace) -> None:
    workplace.write(1000)
    first = written(workplace.run())
    assert first["predictions"]["before"] is None
    workplace.edit("2.0 * float(value)", "3.0 * float(value)")
    run = workplace.run(restart=True, **REPORT)
    second = written(run)
    assert second["predictions"]["before"] == first["predictions"]["now"]
    assert second["predictions"]["now"] != first["predictions"]["now"]
    assert f"the run of {first['ended']}" in page(run)


def test_a_retry_shows_those_of_the_run_before_it(workplace: Workplace) -> None:
    workplace.write(1000, bad={3, 5})
    first = written(workplace.run(errors={"threshold": -1}))
    workplace.mend()
    second = written(workplace.retry(errors={"threshold": -1}))
    conforms(second)
    assert second["predictions"]["before"] == first["predictions"]["now"]
    assert second["predictions"]["now"]["rows"] == 1000
    assert second["dead_letters"] == {"rows": 0, "looked_at": 0, "kinds": 0, "groups": []}


def test_a_killed_run_costs_neither_the_predictions_before_nor_the_report_of_the_next(workplace: Workplace) -> None:
    workplace.write(4000)
    first = written(workplace.run())
    slow = {"options": {"delay": 0.05, "log": str(workplace.log)}}
    process = workplace.start(model=slow, output={"mode": "overwrite"}, checkpoint={"interval": 0.2})
    wait_for(lambda: workplace.seen() > 600, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = written(open_run(workplace.folder / "output"))
    conforms(killed)
    assert (killed["state"], killed["predictions"]["before"]) == ("RUNNING", first["predictions"]["now"])
    run = workplace.run(model=slow, output={"mode": "overwrite"}, checkpoint={"interval": 0.2}, **REPORT)
    second = written(run)
    conforms(second)
    assert second["predictions"]["before"] == first["predictions"]["now"]
    assert "4,000 succeeded" in page(run)


def test_a_failed_run_has_a_report_with_what_went_wrong(workplace: Workplace) -> None:
    workplace.write(1000, bad=set(range(1000)))
    with pytest.raises(CircuitBreakerError, match="this looks like a broken model"):
        workplace.run(**REPORT)
    run = open_run(workplace.folder / "output")
    conforms(written(run))
    assert "What went wrong" in page(run)
    assert "this looks like a broken model" in page(run)


def test_a_run_that_is_asked_to_end_reads_no_part_for_its_report(workplace: Workplace) -> None:
    workplace.write(6000)
    stop = StopRequest()

    def listener(event: Event) -> None:
        if isinstance(event, Ticked) and event.decided:
            stop.ask("enough")

    slow = workplace.fields(model={"options": {"delay": 0.02}}, **REPORT)
    run = Job(**slow).run(listener=listener, stop=stop)
    assert run.exit_code == 75
    value = written(run)
    conforms(value)
    assert value["predictions"]["now"] is None
    assert "interrupted: the same command goes on" in page(run)
    run.report()
    assert "<h2>Predictions</h2>" in page(run)  # at leisure


def test_a_page_that_cannot_be_drawn_takes_nothing_with_it(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: RunRecord) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(reporting, "page", broken)
    workplace.write(100)
    run = workplace.run(**REPORT)
    assert run.exit_code == 0
    assert run.counts.succeeded == 100
    conforms(written(run))
    assert "no report of this run" in caplog.text


def test_secrets_of_the_job_are_in_neither(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2hunter2")
    workplace.write(100)
    run = workplace.run(input={"where": "id >= 0 AND 'hunter2hunter2' <> ''"}, **REPORT)
    assert "[hidden]" in page(run)
    assert "hunter2hunter2" not in page(run)
    assert "hunter2hunter2" not in json.dumps(written(run))


def test_another_output_is_shown_beside_this_one_where_it_is_asked_for(workplace: Workplace, tmp_path: Path) -> None:
    workplace.write(100)
    first = workplace.run()
    other = workplace.run(output={"path": str(tmp_path / "other")})
    other.report(to=tmp_path / "a.html")
    assert 'var(--two)"></span>' not in (tmp_path / "a.html").read_text()
    for reference in (first, first.path, first.profile()):
        other.report(reference, to=tmp_path / "b.html")
        told = first.path if not isinstance(reference, Profile) else "the reference"
        assert f'var(--two)"></span>{told}' in (tmp_path / "b.html").read_text()


def test_there_is_nothing_to_report_of_a_job_that_never_began(workplace: Workplace, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no job of batchinfer"):
        open_run(tmp_path / "nothing")


def test_old_records_are_read(workplace: Workplace) -> None:
    """Of the version before the facts were there."""
    workplace.write(100)
    run = workplace.run()
    job = run._job.paths
    kept = ("state", "exit_code", "rows", "job", "output", "executor", "errors")
    run._store.put(job.run_results, records.to_bytes({k: v for k, v in written(run).items() if k in kept}))
    assert run.report().endswith("report.html")
    assert "100 succeeded" in page(run)
