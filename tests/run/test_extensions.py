"""A job whose input grows, changes and shrinks: only what is new or rewritten is predicted, and each row stands in the output once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from batchinfer import Job, Run
from batchinfer.errors import FingerprintError, InputError, JobFileError
from batchinfer.ledger import jobs, parts
from batchinfer.ledger.host import HERE
from batchinfer.storage.local import LocalStore
from tests.run.workplace import Workplace

EXTEND = {"inputs_changed": "extend"}


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def options(place: Workplace, **more: Any) -> dict[str, Any]:
    outputs = {"y": {"column": "y", "type": "float64"}}
    return {"options": {"log": str(place.log), **more}, "outputs": outputs}


def ran(place: Workplace, **sections: Any) -> Run:
    run = place.run(**{"run": EXTEND, "model": options(place), **sections})
    assert run.exit_code == 0, run.record
    return run


def check(place: Workplace, *files: str) -> None:
    """The output holds the rows of these files once each, by every way to read it."""
    wanted = pl.concat([pl.read_parquet(place.folder / "input" / f"{name}.parquet") for name in files])
    wanted = wanted.with_columns(y=2.0 * pl.col("x")).sort("id")
    run = place.opened()
    for frame in (run.results().collect(), pl.read_parquet(place.folder / "output" / "data" / "*.parquet")):
        assert frame.sort("id").equals(wanted.select(frame.columns))
    assert run.counts.planned == run.counts.succeeded == len(wanted)
    assert run.shards[0] == run.shards[1]
    made = run.verify(deep=True)
    assert not made.findings
    assert made.rows == run.counts
    assert (place.folder / "output" / "data" / "_SUCCESS").exists()


def test_two_files_added_and_one_rewritten_predicts_exactly_three(place: Workplace) -> None:
    for n, name in enumerate("abc"):
        place.write(300, name=name, start=1000 * n)
    ran(place)
    assert place.newly_seen() == 900
    before = {path.name: path.read_bytes() for path in (place.folder / "output" / "data").glob("*.parquet")}
    place.write(250, name="b", start=5000)
    place.write(100, name="d", start=3000)
    place.write(200, name="aa", start=7000)
    run = ran(place)
    assert place.newly_seen() == 550
    check(place, "a", "aa", "b", "c", "d")
    after = {path.name: path.read_bytes() for path in (place.folder / "output" / "data").glob("*.parquet")}
    kept = before.keys() & after.keys()
    assert len(kept) == 2
    assert all(after[name] == before[name] for name in kept)
    (first, second) = run.generations
    assert (first.kind, second.kind) == ("run", "extension")
    assert second.changes.startswith("2 files new (")
    assert "1 file rewritten (" in second.changes
    assert second.changes.endswith("; 550 rows to predict")
    assert run.record["changes"] == second.changes
    assert ran(place).exit_code == 0
    assert place.newly_seen() == 0


def test_without_being_asked_a_changed_input_is_refused(place: Workplace) -> None:
    place.write(100)
    ran(place)
    place.write(100, name="b", start=1000)
    with pytest.raises(FingerprintError, match=r"run\.inputs_changed: extend"):
        place.run(model=options(place))


def test_another_model_extends_nothing(place: Workplace) -> None:
    place.write(100)
    ran(place)
    place.write(100, name="b", start=1000)
    with pytest.raises(FingerprintError, match="delay"):
        place.run(run=EXTEND, model=options(place, delay=0.001))


def test_a_job_that_was_begun_without_it_is_extended_by_new_files(place: Workplace) -> None:
    place.write(100)
    place.write(100, name="b", start=1000)
    assert place.run(model=options(place)).exit_code == 0
    assert place.newly_seen() == 200
    place.write(100, name="c", start=2000)
    ran(place)
    assert place.newly_seen() == 100
    check(place, "a", "b", "c")
    place.write(90, name="b", start=1000)
    run = ran(place)
    assert place.newly_seen() == 190, "a part is replaced as a whole, and a is in that of b"
    check(place, "a", "b", "c")
    assert "1 file rewritten (" in run.record["changes"]
    assert "1 file in the same parts as those (" in run.record["changes"]
    place.write(80, name="b", start=1000)
    ran(place)
    assert place.newly_seen() == 80, "by now each part has rows of one file"
    check(place, "a", "b", "c")


def test_a_part_with_rows_of_a_file_that_is_gone_and_kept_can_not_be_replaced(place: Workplace) -> None:
    place.write(100)
    place.write(100, name="b", start=1000)
    assert place.run(model=options(place)).exit_code == 0
    a = place.folder / "input" / "a.parquet"
    a.rename(place.folder / "a.parquet")
    keep = {"run": {**EXTEND, "on_removed": "keep"}}
    ran(place, **keep)
    place.write(90, name="b", start=1000)
    with pytest.raises(
        InputError,
        match=r"b\.parquet changed, and part 0 holds rows of it together with rows of .*a\.parquet, which is gone",
    ):
        ran(place, **keep)
    assert len(place.opened().results().collect()) == 200
    (place.folder / "a.parquet").rename(a)
    ran(place, **keep)
    check(place, "a", "b")


def test_what_lies_in_the_same_parts_as_a_file_that_is_dropped_is_predicted_again(place: Workplace) -> None:
    for n, name in enumerate("abc"):
        place.write(1500, name=name, group=500, start=10_000 * n)  # b lies in two parts, with a and with c
    assert place.run(model=options(place)).exit_code == 0
    place.newly_seen()
    (place.folder / "input" / "a.parquet").unlink()
    ran(place, run={**EXTEND, "on_removed": "drop"})
    assert place.newly_seen() == 3000
    check(place, "b", "c")


@pytest.mark.parametrize("what", ["keep", "drop"])
def test_rows_of_files_that_are_gone_are_kept_or_dropped_as_asked(place: Workplace, what: str) -> None:
    for n, name in enumerate("abc"):
        place.write(100, name=name, start=1000 * n)
    ran(place)
    place.newly_seen()
    gone = place.folder / "b.parquet"
    (place.folder / "input" / "b.parquet").rename(gone)
    with pytest.raises(
        InputError, match=r"1 file whose rows are predicted is gone: .*b\.parquet.*run\.on_removed: keep or drop"
    ):
        ran(place)
    place.write(50, name="d", start=3000)
    run = ran(place, run={**EXTEND, "on_removed": what})
    assert place.newly_seen() == 50
    assert ("whose rows stay" in run.record["changes"]) == (what == "keep")
    assert ("with their rows" in run.record["changes"]) == (what == "drop")
    frame = run.results().collect()
    wanted = [*range(100), *(range(1000, 1100) if what == "keep" else ()), *range(2000, 2100), *range(3000, 3050)]
    assert sorted(frame["id"]) == wanted
    assert pl.read_parquet(place.folder / "output" / "data" / "*.parquet").height == len(wanted)
    assert not run.verify().findings
    ran(place, run={**EXTEND, "on_removed": what})
    assert place.newly_seen() == 0
    gone.rename(place.folder / "input" / "b.parquet")
    ran(place)
    assert place.newly_seen() == (0 if what == "keep" else 100)
    check(place, "a", "b", "c", "d")


def test_a_job_may_be_extended_again_and_again(place: Workplace) -> None:
    place.write(50)
    ran(place)
    place.newly_seen()
    for n in range(1, 5):
        place.write(60 + n, name="b", start=1000)
        place.write(40, name=f"c{n}", start=2000 + 100 * n)
        ran(place)
        assert place.newly_seen() == 100 + n
        check(place, "a", "b", *(f"c{m}" for m in range(1, n + 1)))


def test_dead_rows_of_any_generation_can_be_retried_and_those_of_rewritten_files_go(place: Workplace) -> None:
    place.write(100, bad={3, 4})
    place.write(100, bad={5}, name="b", start=1000)
    lax = {"errors": {"threshold": -1}}
    ran(place, **lax)
    place.write(100, bad={6, 7}, name="c", start=2000)
    place.write(100, bad={8}, name="b", start=1000)
    run = ran(place, **lax)
    assert sorted(map(int, run.errors()["key"])) == [3, 4, 1008, 2006, 2007]
    assert run.counts.dead == 5
    place.mend()
    run = place.retry(model=options(place), run=EXTEND, **lax)
    assert run.counts.dead == 0
    frame = run.results().collect()
    assert len(frame) == 300
    assert frame.filter(pl.col("y") == -1)["id"].to_list() == [3, 4, 1008, 2006, 2007]
    assert not run.verify(deep=True).findings
    place.write(30, name="d", start=3000)
    run = ran(place, **lax)
    assert run.counts.planned == run.counts.succeeded == 330
    assert not run.verify(deep=True).findings
    place.newly_seen()
    place.write(100, name="b", start=1000)
    run = ran(place, **lax)
    assert place.newly_seen() == 100, "no part of a retry has rows of two files"
    assert run.counts.planned == run.counts.succeeded == 330
    assert not run.verify(deep=True).findings
    assert run.results().collect()["id"].n_unique() == 330


@pytest.mark.parametrize("extended", [False, True])
def test_an_interrupted_generation_ends_before_the_next_extension(place: Workplace, extended: bool) -> None:
    place.write(100, name="z", start=9000)
    if extended:
        ran(place, model=options(place, delay=0.05), batching={"shard": 500})
    place.write(2000)
    process = place.start(
        run=EXTEND,
        model=options(place, delay=0.05),
        checkpoint={"interval": "100ms"},
        batching={"shard": 500},
    )
    deadline = time.monotonic() + 30
    wanted = (2 if extended else 1) + 1
    while len(list((place.folder / "output" / "data").glob("*.parquet"))) < wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    place.newly_seen()
    place.write(70, name="b", start=5000)
    ran(place, model=options(place, delay=0.05), batching={"shard": 500})
    assert 70 < place.newly_seen() < 2070
    check(place, "a", "b", "z")
    assert [g.kind for g in place.opened().generations] == ["run", "extension"] + ["extension"] * extended


def test_a_file_that_changes_while_a_run_is_interrupted_is_read_as_it_is_then(place: Workplace) -> None:
    place.write(1000)
    place.write(1000, name="b", start=5000)
    process = place.start(run=EXTEND, model=options(place, delay=0.05), batching={"shard": 500})
    deadline = time.monotonic() + 30
    while not list((place.folder / "output" / "data").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    place.newly_seen()
    place.write(900)
    place.write(800, name="b", start=5000)
    ran(place, model=options(place, delay=0.05), batching={"shard": 500})
    assert place.newly_seen() == 1700
    check(place, "a", "b")


def test_a_file_that_goes_while_a_run_is_interrupted_and_comes_back_is_predicted_then(place: Workplace) -> None:
    """To keep its rows there must be some: of what was passed over nothing stays."""
    keep = {**EXTEND, "on_removed": "keep"}
    place.write(1000)
    place.write(600, name="b", start=5000)
    process = place.start(run=keep, model=options(place, delay=0.05), batching={"shard": 500})
    deadline = time.monotonic() + 30
    while not list((place.folder / "output" / "data").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    gone = place.folder / "input" / "b.parquet"
    gone.rename(place.folder / "b.parquet")
    ran(place, run=keep, model=options(place, delay=0.05), batching={"shard": 500})
    check(place, "a")
    place.newly_seen()
    (place.folder / "b.parquet").rename(gone)
    ran(place, run=keep, model=options(place, delay=0.05), batching={"shard": 500})
    assert place.newly_seen() == 600
    check(place, "a", "b")


@pytest.mark.slow
def test_killed_at_any_time_an_extension_ends_with_each_row_once(place: Workplace) -> None:
    place.write(300)
    place.write(300, name="b", start=1000)
    ran(place, model=options(place, delay=0.02), batching={"shard": 100, "window": 100})
    for n in range(6):
        place.write(301 + n, name="b", start=1000)
        place.write(100, name=f"c{n}", start=3000 + 100 * n)
        process = place.start(run=EXTEND, model=options(place, delay=0.02), batching={"shard": 100, "window": 100})
        time.sleep(1.3 + 0.15 * n)
        process.kill()
        process.communicate()
        frame = place.opened().results().collect()  # readers of the manifest see a state before, or the one after
        made = {*range(300), *range(1000, 1301 + n), *(3000 + 100 * m + i for m in range(n + 1) for i in range(100))}
        assert frame["id"].is_unique().all()
        assert set(range(300)) <= set(frame["id"]) <= made
        assert len(frame) % 100 == len(frame.filter(pl.col("id").is_between(1000, 2000))) % 100
    ran(place, model=options(place, delay=0.02), batching={"shard": 100, "window": 100})
    check(place, "a", "b", *(f"c{n}" for n in range(6)))


def test_a_replaced_part_that_a_late_runner_puts_back_is_removed(place: Workplace) -> None:
    place.write(100)
    place.write(100, name="b", start=1000)
    ran(place)
    store = LocalStore(str(place.folder / "output"))
    job = jobs.current(store)
    assert job is not None
    old = {n: store.read(job.paths.part(n)) for n in parts.list_shards(store, job.paths)}
    place.write(90, name="b", start=1000)
    ran(place)
    (gone,) = old.keys() - parts.list_shards(store, job.paths)
    store.put(job.paths.part(gone), old[gone])
    assert {str(f.kind) for f in place.opened().verify().findings} == {"extra"}
    assert [(found.path, found.why) for found in place.opened().clean(remove=False)] == [
        (job.paths.part(gone), "parts of files that were rewritten or removed")
    ]
    ran(place)
    check(place, "a", "b")


def test_files_may_come_and_go_before_anything_was_begun(place: Workplace) -> None:
    """The runner that made the job's record died before it had a plan; the next one's is of other files."""
    place.write(100)
    plan = Job(**place.fields(run=EXTEND, model=options(place))).plan()
    store = LocalStore(str(place.folder / "output"))
    jobs.find_or_create(store, "doubling", plan.fingerprint, HERE.identity(), fresh=False, overwrite=False)
    place.write(100, name="b", start=1000)
    ran(place)
    check(place, "a", "b")
    (place.folder / "input" / "b.parquet").unlink()
    with pytest.raises(InputError, match=r"1 file whose rows are predicted is gone: .*b\.parquet"):
        ran(place)
    ran(place, run={**EXTEND, "on_removed": "drop"})
    check(place, "a")


def test_what_does_not_go_together_is_said(place: Workplace) -> None:
    place.write(10)
    with pytest.raises(JobFileError, match=r"run\.inputs_changed: and input\.limit don't go together"):
        place.run(run=EXTEND, input={"limit": 5})
    with pytest.raises(JobFileError, match=r"run\.on_removed: needs inputs_changed: extend"):
        place.run(run={"on_removed": "keep"})


def test_files_with_another_type_are_refused(place: Workplace) -> None:
    place.write(100)
    path = place.folder / "input" / "a.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "x", table["x"].cast("int32")), path)
    ran(place, output={"carry": ["x"]})
    pq.write_table(table, place.folder / "input" / "b.parquet")
    with pytest.raises(
        InputError, match=r"the column 'x' is int32 in the parts that stand, and int64 in the input now"
    ):
        ran(place, output={"carry": ["x"]})
