"""Nothing is predicted twice: rows of equal content in a run, and over runs and jobs with a prediction cache."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import Job, Run
from batchinfer.errors import JobFileError
from tests.run.workplace import Workplace, chunks

TYPED = {"y": {"column": "y", "type": "float64"}}


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def write(place: Workplace, x: list[int | None], **columns: Any) -> None:
    (place.folder / "input").mkdir(exist_ok=True)
    table = pa.table({"id": pa.array(range(len(x)), pa.int64()), "x": pa.array(x, pa.int64()), **columns})
    pq.write_table(table, place.folder / "input" / "a.parquet", row_group_size=1000)


def ran(place: Workplace, cache: dict[str, Any] | None = None, output: str = "output", **sections: Any) -> Run:
    """A run that is checked row by row."""
    model = {"options": {"log": str(place.log)}, "outputs": TYPED, **sections.pop("model", {})}
    more = {"errors": {"threshold": -1}, **sections}
    run = place.run(cache=cache or {}, model=model, output={"path": str(place.folder / output), "carry": "all"}, **more)
    given = pq.read_table(place.folder / "input", columns=["id", "x"])
    wanted = {i: 2.0 * x for i, x in zip(given["id"].to_pylist(), given["x"].to_pylist(), strict=True) if x is not None}
    got = run.results().select("id", "y").collect()
    assert got["id"].to_list() == list(wanted)
    assert dict(got.iter_rows()) == wanted
    assert run.counts.dead == given["x"].null_count
    return run


def usage(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = run.record["usage"]["steps"]["model"]
    return found


def shared(place: Workplace, **more: Any) -> dict[str, Any]:
    return {"path": str(place.folder / "cache"), **more}


REPEATED = [(n * 7919) % 700 for n in range(5000)]
"""700 values, each some seven times, in windows and shards far from each other."""


def test_rows_of_equal_content_are_predicted_once_in_a_run(place: Workplace) -> None:
    write(place, list(REPEATED))
    run = ran(place, {"deduplicate": True})
    assert place.newly_seen() == 700
    assert usage(run)["reused"] == 4300
    assert usage(run)["rows"] == 700


def test_by_default_a_users_class_sees_every_row(place: Workplace) -> None:
    write(place, list(REPEATED))
    ran(place)
    assert place.newly_seen() == 5000


def test_a_second_run_asks_the_model_nothing(place: Workplace) -> None:
    write(place, list(range(3000)))
    ran(place, shared(place))
    assert place.newly_seen() == 3000
    again = ran(place, shared(place), output="again")
    assert place.newly_seen() == 0
    assert usage(again)["reused"] == 3000
    assert usage(again)["rows"] == 0
    assert place.digests("again") == place.digests("output")


def test_only_what_is_new_is_predicted(place: Workplace) -> None:
    write(place, list(range(1000)))
    ran(place, shared(place))
    assert place.newly_seen() == 1000
    write(place, list(range(500, 1700)))
    ran(place, shared(place), output="again")
    assert place.newly_seen() == 700


def test_a_column_that_no_model_reads_changes_nothing(place: Workplace) -> None:
    write(place, list(range(500)), note=["a"] * 500)
    ran(place, shared(place))
    assert place.newly_seen() == 500
    write(place, list(range(500)), note=["b"] * 500)
    run = ran(place, shared(place), output="again")
    assert place.newly_seen() == 0
    assert set(run.results().collect()["note"]) == {"b"}


def test_a_change_of_the_code_predicts_everything_anew(place: Workplace) -> None:
    write(place, list(range(500)))
    ran(place, shared(place))
    assert place.newly_seen() == 500
    place.edit("2.0 * float(value)", "float(value) * 2")
    ran(place, shared(place), output="again")
    assert place.newly_seen() == 500


def test_other_names_of_columns_find_what_was_predicted(place: Workplace) -> None:
    write(place, list(range(500)))
    ran(place, shared(place))
    place.newly_seen()
    table = pq.read_table(place.folder / "input").rename_columns(["id", "value"])
    pq.write_table(table, place.folder / "input" / "a.parquet")
    model = {
        "inputs": {"x": "value"},
        "outputs": {"y": {"column": "double", "type": "float64"}},
        "options": {"log": str(place.log)},
    }
    run = place.run(cache=shared(place), model=model, output={"path": str(place.folder / "again")})
    assert place.newly_seen() == 0
    assert run.results().collect()["double"].to_list() == [2.0 * n for n in range(500)]


def test_other_options_or_types_do_not(place: Workplace) -> None:
    write(place, list(range(100)))
    ran(place, shared(place))
    assert place.newly_seen() == 100
    ran(place, shared(place), output="b", model={"outputs": {"y": {"column": "y", "type": "float32"}}})
    assert place.newly_seen() == 100
    ran(place, shared(place), output="c", model={"options": {"log": str(place.log), "delay": 0.001}})
    assert place.newly_seen() == 100


def test_bad_rows_are_asked_again_and_their_duplicates_are_dead_too(place: Workplace) -> None:
    write(place, [None if n % 50 == 0 else n % 60 for n in range(600)])
    run = ran(place, shared(place))
    assert run.counts.dead == 12
    first = place.newly_seen()
    ran(place, shared(place), output="again")
    assert 0 < place.newly_seen() < first  # the bad ones alone


def test_a_step_may_be_left_out(place: Workplace) -> None:
    write(place, list(REPEATED))
    ran(place, shared(place, deduplicate=True), model={"cache": False})
    assert place.newly_seen() == 5000
    assert not (place.folder / "cache").exists() or not list((place.folder / "cache").rglob("*.keys"))


def test_a_damaged_cache_costs_predictions_and_nothing_else(place: Workplace) -> None:
    write(place, list(range(2000)))
    ran(place, shared(place))
    place.newly_seen()
    for path in (place.folder / "cache").rglob("*.*"):
        path.write_bytes(path.read_bytes()[:-1])
    ran(place, shared(place), output="again")
    assert place.newly_seen() == 2000


def test_a_cache_that_cannot_be_written_costs_a_warning(place: Workplace, caplog: pytest.LogCaptureFixture) -> None:
    write(place, list(range(100)))
    (place.folder / "cache").write_text("no folder")
    ran(place, shared(place))
    assert any("left alone" in record.message for record in caplog.records)


KILLED = """
import json, os, signal, sys
from batchinfer import Job
from batchinfer.storage.local import LocalStore
from batchinfer.worker import recall

recall._SECONDS = 0.0
put, left = LocalStore.put, [int(sys.argv[2])]

def killed(store, path, data):
    if store.root.endswith("cache"):
        if not left[0]:
            if sys.argv[3] == "after":
                put(store, path, data)
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
    put(store, path, data)

LocalStore.put = killed
Job(**json.loads(sys.argv[1])).run()
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 8))
def test_a_run_that_is_killed_at_any_step_of_writing_never_gives_a_wrong_answer(
    place: Workplace, at: int, when: str
) -> None:
    write(place, list(range(1000)))
    batching = {"shard": 200, "window": 100}
    model = {"options": {"log": str(place.log)}, "outputs": TYPED}
    output = {"path": str(place.folder / "killed")}
    fields = place.fields(cache=shared(place), model=model, batching=batching, output=output)
    done = subprocess.run([sys.executable, "-c", KILLED, json.dumps(fields), str(at), when], check=False)
    assert done.returncode == -signal.SIGKILL
    place.newly_seen()
    again = ran(place, shared(place), output="again", batching=batching)
    # One file of settings, then answers, their keys and a mark of use for each shard.
    shards, step = divmod(at - 1 + (when == "after"), 3)
    assert usage(again)["reused"] == 200 * (shards + (step == 2))
    assert place.newly_seen() == 1000 - usage(again)["reused"]


def test_a_killed_run_goes_on_with_the_answers_that_it_has(place: Workplace) -> None:
    """Rows that wait for others of equal content find them in checkpoints too."""
    write(place, list(REPEATED))
    options = {"log": str(place.log), "delay": 0.1}
    sections = {
        "cache": {"deduplicate": True},
        "model": {"options": options, "outputs": TYPED},
        "checkpoint": {"interval": "200ms"},
        "batching": {"shard": 5000, "window": 500},
        "output": {"path": str(place.folder / "output"), "carry": "all"},
    }
    process = place.start(**sections)
    deadline = time.monotonic() + 30
    while not chunks(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    before = place.newly_seen()
    del sections["model"], sections["output"]
    ran(place, **sections, model={"options": options})
    assert before > 0
    assert place.newly_seen() < 700


def test_costremember_each_for_itself(place: Workplace) -> None:
    write(place, [n % 10 for n in range(400)])
    (place.folder / "code" / "more.py").write_text(
        "class More:\n    def __call__(self, batch):\n"
        "        open(__file__ + '.seen', 'a').write('x' * len(batch['y']))\n"
        "        return {'z': [y + 1 for y in batch['y']]}\n"
    )
    steps = [
        {"name": "double", "engine": "python", "uri": "doubling:Double", "inputs": {"x": "x"}, "outputs": TYPED},
        {
            "name": "more",
            "engine": "python",
            "uri": "more:More",
            "inputs": {"y": "y"},
            "outputs": {"z": {"column": "z", "type": "float64"}},
            "when": "x > 4",
        },
    ]
    fields = place.fields(cache={"deduplicate": True}, steps=steps)
    run = Job(**fields).run()
    got = run.results().collect()
    assert got["z"].to_list() == [2.0 * (n % 10) + 1 if n % 10 > 4 else None for n in range(400)]
    cost = run.record["usage"]["steps"]
    assert cost["double"]["rows"] + cost["double"]["reused"] == 400
    assert cost["more"]["rows"] + cost["more"]["reused"] == 200
    assert cost["more"]["rows"] <= 10


def test_a_cache_among_what_is_read_or_written_is_refused(place: Workplace) -> None:
    write(place, [1])
    for path in ("output/cache", "input", "output"):
        with pytest.raises(JobFileError, match=r"cache\.path"):
            place.run(cache={"path": str(place.folder / path)})


def test_a_cache_may_lie_on_an_object_store(place: Workplace) -> None:
    write(place, list(range(300)))
    cache = {"path": f"memory://cache-{place.folder.name}"}
    ran(place, cache)
    assert place.newly_seen() == 300
    ran(place, cache, output="again")
    assert place.newly_seen() == 0
    shutil.rmtree(place.folder / "again")


def test_rows_written_by_both_ways_are_the_same(place: Workplace) -> None:
    write(place, list(REPEATED))
    ran(place)
    ran(place, {"deduplicate": True}, output="once")
    one, other = (pl.read_parquet(place.folder / name / "data" / "*.parquet") for name in ("output", "once"))
    assert one.equals(other)
