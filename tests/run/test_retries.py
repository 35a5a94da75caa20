"""Dead rows that are attempted again: a generation of its own, in this process."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.errors import FingerprintError, InputError, OutputError
from batchinfer.run.events import Finished, Started, State
from tests.run.workplace import Workplace

BAD = {3, 77, 500, 2000, 2001, 4096, 7000, 8191, 9998, 9999}


def expected(rows: int, bad: set[int]) -> list[float]:
    """What the mended model answers."""
    return [-1.0 if n in bad else 2.0 * n for n in range(rows)]


def test_a_mended_model_turns_exit_3_into_0_and_its_rows_stand_in_input_order(workplace: Workplace) -> None:
    workplace.write(10_000, bad=BAD)
    assert workplace.run().exit_code == 3
    before = workplace.files()
    workplace.mend()
    run = workplace.opened().retry()
    assert (run.exit_code, run.state) == (0, State.SUCCEEDED)
    counts = run.counts
    assert (counts.planned, counts.succeeded, counts.dead, counts.not_attempted) == (10_000, 10_000, 0, 0)
    assert run.record["rows"] == {"planned": 10_000, "succeeded": 10_000, "dead": 0, "filtered": 0, "not_attempted": 0}
    frame = run.results().collect()
    assert frame["id"].to_list() == list(range(10_000))
    assert frame["y"].to_list() == expected(10_000, BAD)
    assert sorted(pl.read_parquet(workplace.folder / "output/data/*.parquet")["id"].to_list()) == list(range(10_000))
    after = workplace.files()
    assert (after.pop("data/_SUCCESS"), run.errors().height) == (b"", 0)
    changed = {p for p in before if before[p] != after[p]}
    assert {p.rpartition("/")[2] for p in changed} == {"run_results.json"}  # what stands is never rewritten


def test_resolved_dead_letters_stay_and_say_which_part_resolved_them(workplace: Workplace) -> None:
    workplace.write(10_000, bad=BAD)
    workplace.run()
    workplace.mend()
    run = workplace.opened().retry()
    letters = run.errors(resolved=True)
    assert letters["row"].to_list() == sorted(BAD)
    (part,) = letters["resolved_by"].unique().to_list()
    assert sorted(pq.read_table(workplace.folder / "output" / part)["id"].to_pylist()) == sorted(BAD)
    assert set(letters["error_type"].to_list()) == {"TypeError"}


def test_a_retry_with_nothing_to_do_writes_nothing_and_repeats_the_verdict(workplace: Workplace) -> None:
    workplace.write(3000, bad={7})
    workplace.run()
    workplace.mend()
    workplace.retry()
    before = workplace.files()
    events: list[Any] = []
    again = workplace.retry(events=events)
    assert (again.exit_code, [type(e) for e in events]) == (0, [Finished])
    assert workplace.files() == before


def test_a_run_of_the_mended_job_after_its_retry_is_complete_and_so_is_one_of_the_former(workplace: Workplace) -> None:
    workplace.write(3000, bad={7})
    workplace.run()
    source = workplace.folder / "code/doubling.py"
    former = source.read_text()
    workplace.mend()
    with pytest.raises(FingerprintError, match="batchinfer retry"):
        workplace.run()
    workplace.retry()
    mended = source.read_text()
    for text in (mended, former):
        source.write_text(text)
        events: list[Any] = []
        assert workplace.run(events=events).exit_code == 0
        assert [type(e) for e in events] == [Finished]
    source.write_text(mended.replace("-1.0", "-2.0"))
    with pytest.raises(FingerprintError, match=r"doubling\.py"):
        workplace.run()


def test_rows_that_die_again_have_new_letters_that_count_and_the_old_ones_stay(workplace: Workplace) -> None:
    workplace.write(3000, bad={7, 8, 2500})
    workplace.run()
    old = {p: d for p, d in workplace.files().items() if p.startswith("_dead_letter/")}
    workplace.edit('TypeError("x is null")', 'ValueError("still null")')
    for generation in (2, 3):
        run = workplace.retry()
        assert (run.exit_code, run.state) == (3, State.PARTIAL)
        assert (run.counts.planned, run.counts.succeeded, run.counts.dead) == (3000, 2997, 3)
        dead = workplace.dead()
        assert [(d["row"], d["source_row"], d["error_type"]) for d in dead] == [
            (n, n, "ValueError") for n in (7, 8, 2500)
        ]
        assert [d["key"] for d in dead] == ["7", "8", "2500"]
        assert len(run.generations) == generation
    assert old.items() <= workplace.files().items()
    assert not (workplace.folder / "output/data/_SUCCESS").exists()
    workplace.edit('ValueError("still null")', 'TypeError("x is null")')
    workplace.mend()
    assert workplace.retry().exit_code == 0
    assert workplace.opened().results().collect()["id"].to_list() == list(range(3000))
    assert len(workplace.opened().errors(resolved=True)) == 3


def test_only_rows_of_the_chosen_error_are_attempted(workplace: Workplace) -> None:
    workplace.write(3000, bad={7, 2500})
    sleep = "time.sleep(self.delay)"
    workplace.edit(sleep, f'{sleep}\n        if 100 in batch["x"]:\n            raise KeyError("hundred")')
    workplace.run()
    assert workplace.opened().counts.dead == 3
    workplace.edit('raise KeyError("hundred")', "pass")
    workplace.mend()
    unknown = workplace.retry(only=["NoSuchError"])
    assert (unknown.exit_code, unknown.counts.dead, len(unknown.generations)) == (3, 3, 1)
    run = workplace.retry(only=["KeyError"])
    assert (run.exit_code, run.counts.dead) == (3, 2)
    assert {d["row"] for d in workplace.dead()} == {7, 2500}
    assert run.generations[1].selection == ("KeyError",)
    run = workplace.retry(only=["exception"])  # the class
    assert (run.exit_code, run.counts.dead) == (0, 0)


def test_retryable_rows_alone_are_attempted_where_that_is_asked(workplace: Workplace) -> None:
    workplace.write(3000, bad={7})
    workplace.run()
    workplace.mend()
    run = workplace.opened().retry(retryable=True)  # a TypeError is not
    assert (run.exit_code, run.counts.dead, len(run.generations)) == (3, 1, 1)


def test_mended_values_are_read_from_the_input_as_it_is_now(workplace: Workplace) -> None:
    workplace.write(3000, bad={7, 2500})
    workplace.run()
    workplace.write(3000)
    run = workplace.retry()
    assert (run.exit_code, run.counts.succeeded) == (0, 3000)
    assert run.results().collect()["y"].to_list() == [2.0 * n for n in range(3000)]
    events: list[Any] = []
    assert workplace.run(events=events).exit_code == 0
    assert [type(e) for e in events] == [Finished]


def test_rows_that_cannot_be_found_any_more_are_named(workplace: Workplace) -> None:
    workplace.write(3000, bad={2500})
    workplace.write(100, name="b", start=3000)
    workplace.run()
    before = workplace.files()
    workplace.write(2000)
    with pytest.raises(InputError, match=r"a\.parquet: row 2,500 .* 2,000 rows"):
        workplace.retry()
    (workplace.folder / "input/a.parquet").unlink()
    with pytest.raises(InputError, match=r"a\.parquet.*bring it back"):
        workplace.retry()
    assert workplace.files() == before


def test_files_that_came_later_are_not_in_the_job_that_a_retry_is_of(workplace: Workplace) -> None:
    workplace.write(3000, bad={7})
    workplace.run()
    workplace.mend()
    workplace.write(1000, name="b", start=3000)
    run = workplace.retry()
    assert (run.exit_code, run.counts.planned, run.counts.succeeded) == (0, 3000, 3000)
    with pytest.raises(FingerprintError, match=r"input\.files\.count: 1 → 2"):
        workplace.run()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input": {"where": "id > 5"}}, r"input\.where: null → id > 5"),
        ({"output": {"carry": "all"}}, r"output\.carry"),
        ({"model": {"outputs": {"y": "z"}}}, r"outputs: \[.y.\] → \[.z.\]"),
        ({"model": {"outputs": {"y": {"column": "y", "type": "string"}}}}, "'y' is double .* string is asked"),
    ],
)
def test_what_would_make_other_rows_or_columns_is_refused(
    workplace: Workplace, change: dict[str, Any], named: str
) -> None:
    workplace.write(3000, bad={7})
    workplace.run()
    before = workplace.files()
    with pytest.raises(FingerprintError, match=named):
        workplace.retry(**change)
    assert workplace.files() == before


def test_a_carried_column_of_another_type_is_refused(workplace: Workplace) -> None:
    workplace.write(3000, bad={7})
    workplace.run()
    path = workplace.folder / "input/a.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "id", table["id"].cast(pa.string())), path)
    with pytest.raises(InputError, match="'id' is int64 in the parts that stand, and string"):
        workplace.retry()


def test_outputs_of_another_type_are_brought_to_the_one_that_stands(workplace: Workplace) -> None:
    workplace.write(3000, bad={7, 8})
    workplace.run()
    workplace.mend()
    doubles, integers = "-1.0 if value is None else 2.0 * float(value)", "-1 if value is None else 2 * value"
    workplace.edit(doubles, integers)
    assert workplace.retry().exit_code == 0
    assert workplace.opened().results().collect().schema["y"] == pl.Float64
    assert len({pq.read_schema(p).to_string() for p in (workplace.folder / "output/data").glob("*.parquet")}) == 1


def test_a_type_that_no_row_showed_before_is_seen_by_the_retry(workplace: Workplace) -> None:
    workplace.write(300, bad=set(range(300)))
    workplace.run(errors={"circuit_breaker": False})
    workplace.mend()
    run = workplace.retry()
    assert (run.exit_code, run.counts.succeeded) == (0, 300)
    assert run.results().collect()["y"].to_list() == [-1.0] * 300


def test_another_model_may_take_over_and_a_threshold_judges_over_the_whole_job(workplace: Workplace) -> None:
    workplace.write(3000, bad={7, 8})
    workplace.run()
    source = "class Half:\n    def __call__(self, batch):\n        return {'y': [0.5] * len(batch['x'])}\n"
    (workplace.folder / "code/halving.py").write_text(source)
    run = workplace.retry(model={"uri": "halving:Half"}, errors={"threshold": "0.1%"})
    assert (run.exit_code, run.counts.dead) == (0, 0)
    assert run.results().filter(pl.col("id").is_in([6, 7, 8, 9])).collect()["y"].to_list() == [12.0, 0.5, 0.5, 18.0]


def test_a_job_that_has_not_ended_is_run_first(workplace: Workplace) -> None:
    workplace.write(6000, bad={7, 8})
    workplace.run(errors={"threshold": 1, "on_exceed": "abort"})
    before = workplace.files()
    with pytest.raises(OutputError, match="not been run to its end"):
        workplace.retry()
    assert workplace.files() == before


def test_rows_that_the_mended_input_filters_count_as_filtered(workplace: Workplace) -> None:
    workplace.write(3000, bad={7, 8})
    where = {"input": {"where": "x IS NULL OR x < 5000"}}
    workplace.run(**where)
    table = pq.read_table(workplace.folder / "input/a.parquet")
    mended = pa.array([9999 if x is None else x for x in table["x"].to_pylist()], pa.int64())
    pq.write_table(table.set_column(1, "x", mended), workplace.folder / "input/a.parquet", row_group_size=1000)
    run = workplace.retry(**where)
    counts = run.counts
    assert (run.exit_code, counts.planned, counts.succeeded, counts.dead, counts.filtered) == (0, 3000, 2998, 0, 2)


def test_a_retry_spans_shards_files_and_row_groups(workplace: Workplace) -> None:
    bad = set(range(1, 3000, 2))
    workplace.write(3000, bad=bad, name="a", group=700)
    workplace.write(3000, bad=bad, name="b", start=3000, group=700)
    workplace.run()
    workplace.mend()
    cut = {"batching": {"shard": 400, "window": 130}}
    events: list[Any] = []
    run = workplace.retry(events=events, **cut)
    started = next(e for e in events if isinstance(e, Started))
    assert (len(started.plan.shards), started.plan.rows) == (8, 3000)
    assert (run.exit_code, run.counts.succeeded) == (0, 6000)
    frame = run.results().collect()
    assert frame["id"].to_list() == list(range(6000))
    assert frame["y"].to_list() == [-1.0 if n % 2 else 2.0 * n for n in range(6000)]
    filtered = run.results().filter(pl.col("y") < 0).select("id").head(3).collect()
    assert filtered["id"].to_list() == [1, 3, 5]


def test_restart_after_a_retry_leaves_only_the_new_jobs_files(workplace: Workplace) -> None:
    workplace.write(3000, bad={7})
    workplace.run()
    workplace.edit('TypeError("x is null")', 'ValueError("again")')
    workplace.retry()
    old = {p for p in workplace.files() if p.startswith(("data/", "_dead_letter/"))}
    run = workplace.run(restart=True)
    assert (run.exit_code, run.counts.planned, len(run.generations)) == (3, 3000, 1)
    new = {p for p in workplace.files() if p.startswith(("data/", "_dead_letter/"))}
    assert len(old) == 5  # two parts and one retry's, and the letters of two
    assert old & new == set()
    removed = {found.path for found in run.clean()}
    assert any("manifests/0002.json" in path for path in removed)
    assert run.counts.succeeded == 2999


def test_the_manifest_lists_every_part_of_every_generation_and_counts_each_row_once(workplace: Workplace) -> None:
    workplace.write(6000, bad={7, 8, 5000})
    workplace.run()
    workplace.mend()
    run = workplace.retry()
    (path,) = (workplace.folder / "output/_batchinfer").glob("*/manifests/0002.json")
    manifest = json.loads(path.read_text())
    assert [p["shard"] for p in manifest["parts"]] == [0, 1, 2, 3]
    assert [p["path"] for p in manifest["parts"]] == sorted(p for p in workplace.files() if p.startswith("data/part"))
    assert [r[0] for r in manifest["parts"][3]["retries"]] == [0, 2]
    assert (manifest["rows"]["planned"], manifest["rows"]["succeeded"]) == (6000, 6000)
    assert run.clean() == []


def test_the_recorded_job_is_retried_with_overrides(workplace: Workplace) -> None:
    workplace.write(3000, bad={7})
    workplace.run()
    workplace.mend()
    run = workplace.opened().retry(set_values=["errors.threshold=5", "model.options.delay=0.0"])
    assert (run.exit_code, run.counts.dead) == (0, 0)


def test_a_job_with_a_secret_written_out_is_not_recorded_and_retried_as_given(workplace: Workplace) -> None:
    workplace.write(3000, bad={7})
    code = workplace.folder / "code/doubling.py"
    code.write_text(code.read_text().replace("log: str | None = None", "log=None, api_key=None"))
    model = {"options": {"api_key": "hunter2"}}
    run = workplace.run(model=model)
    assert not any(b"hunter2" in data for data in workplace.files().values())
    with pytest.raises(OutputError, match="isn't recorded"):
        run.retry()
    workplace.mend()
    assert workplace.retry(model=model).exit_code == 0


def test_a_secret_from_the_environment_is_recorded_by_its_name_alone(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.write(3000, bad={7})
    monkeypatch.setenv("CANARY", "hunter2")
    code = workplace.folder / "code/doubling.py"
    code.write_text(code.read_text().replace("log: str | None = None", "log=None, api_key=None"))
    run = workplace.run(model={"options": {"api_key": "${CANARY}"}}, storage={"s3://lake/": {"secret": "${CANARY}"}})
    workplace.mend()
    assert run.retry().exit_code == 0
    assert not any(b"hunter2" in data for data in workplace.files().values())
