"""Jobs of several steps: which rows reach which model, what is written, and what a failing step costs."""

from __future__ import annotations

import collections
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from batchinfer import Job, Run
from batchinfer.errors import InputError, JobFileError, ModelError
from batchinfer.run.events import Event, Settled
from batchinfer.run.stop import StopRequest

MODELS = '''
import os
from pathlib import Path


def note(name, values):
    with open(os.environ["CALLS"], "a") as file:
        file.write("".join(f"{name} {value}\\n" for value in values))


class Small:
    """Half of what it says is sure."""

    def __call__(self, batch):
        note("small", batch["x"])
        return {"label": [f"small {x}" for x in batch["x"]], "sure": [0.9 if x % 2 else 0.1 for x in batch["x"]]}


class Big:
    def __init__(self, bad=(), kills=(), nothing=()):
        self.bad, self.kills, self.nothing = set(bad), set(kills), set(nothing)

    def __call__(self, batch):
        note("big", batch["x"])
        for x in batch["x"]:
            if x in self.kills:
                os.kill(os.getpid(), 9)
            if x in self.bad:
                raise ValueError(f"{x} is too much")
        return {"label": [None if x in self.nothing else f"big {x}" for x in batch["x"]]}
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "pipeline_models.py").write_text(MODELS)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    values = np.random.default_rng(0).permutation(200)
    kind = [None if x % 5 == 0 else "odd" if x % 2 else "even" for x in values]
    pl.DataFrame({"id": np.arange(200), "x": values, "kind": kind}).write_parquet(
        tmp_path / "in.parquet", row_group_size=50
    )
    return tmp_path


def calls(folder: Path) -> dict[str, list[int]]:
    """The rows that each model was called with since this was asked last."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    path = folder / "calls"
    for line in path.read_text().splitlines() if path.exists() else ():
        name, value = line.split()
        found[name].append(int(value))
    path.unlink(missing_ok=True)
    return found


def model(name: str, kind: str, outputs: dict[str, str], **more: Any) -> dict[str, Any]:
    uri = f"pipeline_models:{kind}"
    return {"name": name, "engine": "python", "uri": uri, "inputs": {"x": "x"}, "outputs": outputs, **more}


SMALL = model("small", "Small", {"label": "first", "sure": "sure"})
BIG = model("big", "Big", {"label": "label"}, when="sure < 0.5")
REST = {"name": "rest", "when": "otherwise", "rules": {"label": "first"}}


def job(folder: Path, *steps: dict[str, Any], output: dict[str, Any] | None = None, **more: Any) -> Job:
    fields: dict[str, Any] = {
        "name": "pipeline",
        "code": [str(folder / "code")],
        "input": {"path": str(folder / "in.parquet"), "key": "id"},
        "steps": list(steps),
        "batching": {"shard": 50, "window": 25},
        "resources": {"executor": "inline"},
        "output": {"path": str(folder / "out"), **(output or {})},
        **more,
    }
    return Job(**fields)


def results(run: Run) -> pl.DataFrame:
    return run.results().collect()


def given(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "in.parquet")


def test_a_cascade_sends_the_unsure_rows_to_the_big_model_and_keeps_the_order(folder: Path) -> None:
    run = job(folder, SMALL, BIG, REST, output={"step_used": "used"}).run()
    assert run.exit_code == 0
    made, rows = results(run), given(folder)
    assert made["id"].to_list() == rows["id"].to_list()
    assert made["label"].to_list() == [f"small {x}" if x % 2 else f"big {x}" for x in rows["x"]]
    assert made["used"].to_list() == ["rest" if x % 2 else "big" for x in rows["x"]]
    assert made.columns == ["id", "label", "used"]
    asked = collections.Counter(calls(folder)["big"])
    assert set(asked) == {x for x in rows["x"] if x % 2 == 0}
    usage = run.record["usage"]["steps"]
    assert (usage["small"]["rows"], usage["big"]["rows"], usage["rest"]["rows"]) == (200, 100, 100)
    assert run.verify(deep=True).findings == []


def test_rows_are_routed_by_the_first_condition_that_holds_and_null_is_false(folder: Path) -> None:
    odd = model("odd", "Small", {"label": "label"}, when="kind = 'odd'")
    big = model("rest", "Big", {"label": "label"}, when="otherwise")
    run = job(folder, odd, big, output={"step_used": "used"}).run()
    made, rows = results(run), given(folder)
    assert made["used"].to_list() == ["odd" if k == "odd" else "rest" for k in rows["kind"]]
    assert made["label"].to_list() == [
        f"{'small' if k == 'odd' else 'big'} {x}" for x, k in zip(rows["x"], rows["kind"], strict=True)
    ]


def test_rows_that_no_alternative_takes_have_nulls(folder: Path) -> None:
    odd = model("odd", "Small", {"label": "label"}, when="kind = 'odd'")
    even = model("even", "Big", {"label": "label"}, when="kind = 'even'")
    run = job(folder, odd, even, output={"step_used": "used"}).run()
    made = results(run)
    none = given(folder)["kind"].is_null()
    assert (made["label"].is_null() == none).all()
    assert ((made["used"] == "") == none).all()
    assert run.counts.succeeded == 200


def test_the_big_model_sees_the_rows_of_a_window_together(folder: Path) -> None:
    run = job(folder, SMALL, BIG, REST, batching={"shard": 100, "window": 100}).run()
    usage = run.record["usage"]["steps"]["big"]
    assert usage["rows"] == 100
    assert usage["batches"] == 2


def test_a_row_that_a_step_fails_on_is_dead_and_the_letter_names_the_step(folder: Path) -> None:
    run = job(folder, SMALL, {**BIG, "options": {"bad": [4, 10]}}, REST, errors={"threshold": -1}).run()
    letters = run.errors()
    keys = {int(r["id"]) for r in given(folder).to_dicts() if r["x"] in (4, 10)}
    assert {int(k) for k in letters["key"]} == keys
    assert letters["step"].to_list() == ["big", "big"]
    assert run.counts.succeeded == 198
    assert set(results(run)["id"]) == set(range(200)) - keys


def test_a_row_may_go_on_without_a_step_that_fails_on_it(folder: Path) -> None:
    skipping = model("big", "Big", {"label": "big"}, options={"bad": [4, 10]}, errors={"on_failure": "skip"})
    vote = {"name": "vote", "combine": "vote", "inputs": ["first", "big"], "outputs": {"votes": "votes"}}
    run = job(folder, SMALL, skipping, vote, output={"columns": ["big", "votes"]}).run()
    assert (run.exit_code, run.counts.succeeded, run.counts.dead) == (0, 200, 0)
    made, rows = results(run), given(folder)
    lacking = rows["x"].is_in([4, 10])
    assert (made["big"].is_null() == lacking).all()
    assert (made["votes"] == pl.select(pl.when(lacking).then(1).otherwise(2)).to_series()).all()
    assert run.record["usage"]["steps"]["big"]["skipped"] == 2


def test_a_step_has_its_own_way_with_invalid_outputs(folder: Path) -> None:
    rule = {"name": "ratio", "rules": {"ratio": "CAST(1 AS DOUBLE) / (x - 7)"}}
    assert job(folder, rule, errors={"threshold": -1}).run().counts.dead == 1
    kept = job(folder, {**rule, "errors": {"on_invalid_output": "keep"}}, output={"path": str(folder / "kept")}).run()
    assert (kept.counts.dead, results(kept)["ratio"].is_infinite().sum()) == (0, 1)


def test_a_rule_or_condition_that_can_not_be_evaluated_for_a_row_costs_that_row(folder: Path) -> None:
    pl.DataFrame({"id": [0, 1, 2], "x": [1, 2, 3], "text": ["1", "two", "3"]}).write_parquet(folder / "in.parquet")
    rule = {"name": "number", "rules": {"n": "CAST(text AS BIGINT)"}}
    when = {"name": "picked", "when": "CAST(text AS BIGINT) > 1", "rules": {"n": "x"}}
    for n, (step, values) in enumerate([(rule, [1, 3]), (when, [None, 3])]):
        run = job(folder, step, errors={"threshold": 1}, output={"path": str(folder / f"out{n}")}).run()
        assert run.exit_code == 0
        assert results(run)["n"].to_list() == values
        assert run.errors().select("row", "step").rows() == [(1, step["name"])]


@pytest.mark.ray
@pytest.mark.slow
def test_a_row_that_ends_the_process_of_a_later_step_is_found(folder: Path) -> None:
    killing = {**BIG, "options": {"kills": [6]}}
    run = job(folder, SMALL, killing, REST, errors={"threshold": 1}, resources={"executor": "ray", "workers": 1}).run()
    letters = run.errors()
    assert letters.select("step", "exit_signal").rows() == [("big", "SIGKILL")]
    assert run.counts.succeeded == 199


def test_what_a_step_has_answered_is_not_asked_again_after_an_interruption(folder: Path) -> None:
    """The run ends in the middle; the small model's answers of the windows that the big one had not finished are kept, too."""
    slow = (
        (folder / "code" / "pipeline_models.py")
        .read_text()
        .replace('note("big", batch["x"])', 'note("big", batch["x"]); import time; time.sleep(0.05)')
    )
    (folder / "code" / "pipeline_models.py").write_text(slow)
    more = {"checkpoint": {"interval": 0.01}, "batching": {"shard": 200, "window": 50, "rows": 5}}
    stop = StopRequest()

    def soon(event: Event) -> None:
        if isinstance(event, Settled):
            threading.Timer(0.3, stop.ask, ("enough",)).start()

    first = job(folder, SMALL, BIG, REST, **more).run(stop=stop, listener=soon)
    assert first.exit_code == 75
    before = calls(folder)
    again = job(folder, SMALL, BIG, REST, **more).run()
    assert again.exit_code == 0
    after = calls(folder)
    assert results(again)["label"].to_list() == [f"small {x}" if x % 2 else f"big {x}" for x in given(folder)["x"]]
    assert len(before["big"]) > 10
    for name, most in (("small", 55), ("big", 10)):  # a window that was in hand, and what measuring takes
        assert len(set(before[name]) & set(after[name])) <= most, name
    assert set(before["small"]) - set(after["small"])


def test_conditions_rules_and_columns_are_checked_when_the_job_is_planned(folder: Path) -> None:
    with pytest.raises(InputError, match=r"big\.when: the input has no column 'sur'; did you mean 'sure'"):
        job(folder, SMALL, {**BIG, "when": "sur < 0.5"}, REST).plan()
    with pytest.raises(InputError, match=r"rest\.rules: the input has no column 'frist'; did you mean 'first'"):
        job(folder, SMALL, BIG, {**REST, "rules": {"label": "frist"}}).plan()
    with pytest.raises(JobFileError, match="nothing comes of this step"):
        job(
            folder,
            SMALL,
            BIG,
            REST,
            model_less := {"name": "idle", "rules": {"z": "x + 1"}},
            output={"columns": ["label"]},
        ).plan()
    assert model_less


def test_a_column_that_is_computed_anew_is_read_by_one_step_alone(folder: Path) -> None:
    anew = {"name": "anew", "rules": {"x": "x * 2"}}
    assert (
        results(job(folder, anew, output={"carry": "key"}).run())["x"].to_list() == (given(folder)["x"] * 2).to_list()
    )
    with pytest.raises(
        InputError, match="anew: it reads the column 'x' and computes it anew, and small would read either"
    ):
        job(folder, anew, SMALL).plan()


def test_alternatives_have_one_type_or_are_refused(folder: Path) -> None:
    one = {"name": "one", "when": "x > 100", "rules": {"y": "CAST(x AS DOUBLE) / 2"}}
    two = {"name": "two", "when": "otherwise", "rules": {"y": "x"}}
    made = results(job(folder, one, two).run())
    assert made.schema["y"] == pl.Float64
    assert made["y"].to_list() == [x / 2 if x > 100 else x for x in given(folder)["x"]]
    text = {**two, "rules": {"y": "kind"}}
    with pytest.raises(
        ModelError, match=r"two: it gives string for the column 'y', which is double elsewhere: CAST it"
    ):
        job(folder, one, text, output={"path": str(folder / "text")}).run()


def test_a_changed_rule_is_another_job(folder: Path) -> None:
    assert job(folder, SMALL, BIG, REST).run().exit_code == 0
    with pytest.raises(Exception, match=r"steps\.rest\.rules\.label: first → UPPER\(first\)"):
        job(folder, SMALL, BIG, {**REST, "rules": {"label": "UPPER(first)"}}).run()


def test_settings_and_manifest_tell_of_every_step(folder: Path) -> None:
    run = job(folder, SMALL, BIG, REST).run()
    names = [step["name"] for step in run.record["settings"]["steps"]]
    assert names == ["small", "big", "rest"]
    (path,) = (folder / "out" / "_batchinfer").glob("*/manifests/0001.json")
    assert json.loads(path.read_text())["precision"] == {"small": {"name": "native"}, "big": {"name": "native"}}


def test_a_retry_takes_dead_rows_through_all_steps(folder: Path) -> None:
    bad = {**BIG, "options": {"bad": [4, 10]}}
    run = job(folder, SMALL, bad, REST, errors={"threshold": 0}).run()
    assert run.exit_code == 3
    mended = run.retry(job=job(folder, SMALL, BIG, REST))
    assert (mended.exit_code, mended.counts.succeeded) == (0, 200)
    made = results(mended)
    assert made["label"].to_list() == [f"small {x}" if x % 2 else f"big {x}" for x in given(folder)["x"]]


@pytest.mark.ray
@pytest.mark.slow
def test_several_workers_give_the_files_of_one(folder: Path) -> None:
    one = job(folder, SMALL, BIG, REST, output={"step_used": "used"}).run()
    more = {
        "output": {"path": str(folder / "ray"), "step_used": "used"},
        "resources": {"executor": "ray", "workers": 2},
    }
    two = job(folder, SMALL, BIG, REST, **more).run()
    assert results(two).equals(results(one))
