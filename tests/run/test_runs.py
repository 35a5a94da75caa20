"""A job from its first run to its repetition, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from batchinfer import Job
from batchinfer.errors import CircuitBreakerError, FingerprintError, InputError, ModelError, OutputError
from batchinfer.run.events import Event, Finished, Settled, Started, State
from batchinfer.run.stop import StopRequest
from tests.run.workplace import Workplace

UNWRITABLE = Path(__file__).parents[3] / "shared/data/parquet-interop/duck--empty-group__empty_group_test.parquet"
BAD = {3, 77, 500, 2000, 2001, 4096, 7000, 8191, 9998, 9999}


def test_every_row_comes_out_once_and_in_input_order(workplace: Workplace) -> None:
    workplace.write(5000, name="b", start=5000)
    workplace.write(5000, name="a")
    run = workplace.run()
    assert (run.exit_code, run.state) == (0, State.SUCCEEDED)
    frame = pl.read_parquet(workplace.folder / "output/data/*.parquet")
    assert frame["id"].to_list() == list(range(10_000))
    assert frame["y"].to_list() == [2.0 * n for n in range(10_000)]
    assert run.results().collect().equals(frame)
    assert (workplace.folder / "output/data/_SUCCESS").read_bytes() == b""


def test_ten_bad_rows_in_ten_thousand_are_ten_dead_letters_and_exit_3(workplace: Workplace) -> None:
    workplace.write(10_000, bad=BAD)
    run = workplace.run()
    assert (run.exit_code, run.state) == (3, State.PARTIAL)
    counts = run.counts
    assert (counts.planned, counts.succeeded, counts.dead, counts.filtered, counts.not_attempted) == (
        10_000,
        9990,
        10,
        0,
        0,
    )
    dead = workplace.dead()
    assert [d["row"] for d in dead] == sorted(BAD)
    assert [d["key"] for d in dead] == [str(n) for n in sorted(BAD)]
    assert {(d["error_class"], d["error_type"], d["message"], d["attempts"], d["step"]) for d in dead} == {
        ("exception", "TypeError", "x is null", 2, "model")
    }
    assert set(run.results().collect()["id"].to_list()) == set(range(10_000)) - BAD
    assert not (workplace.folder / "output/data/_SUCCESS").exists()


def test_a_threshold_of_ten_makes_ten_dead_rows_a_success_without_work(workplace: Workplace) -> None:
    workplace.write(10_000, bad=BAD)
    assert workplace.run(errors={"threshold": 9}).exit_code == 3
    before = workplace.digests()
    events: list[Any] = []
    assert workplace.run(errors={"threshold": 10}, events=events).exit_code == 0
    assert [type(e) for e in events] == [Finished]
    assert (workplace.folder / "output/data/_SUCCESS").exists()
    assert workplace.run(errors={"threshold": "0.09%"}).exit_code == 3
    assert not (workplace.folder / "output/data/_SUCCESS").exists()
    assert workplace.run(errors={"threshold": -1}).exit_code == 0
    assert workplace.digests() == before


def test_a_finished_job_is_not_run_again(workplace: Workplace) -> None:
    workplace.write(3000)
    options = {"options": {"log": str(workplace.log)}}
    workplace.run(model=options)
    seen = workplace.seen()
    results = (workplace.folder / "output/_batchinfer").rglob("run_results.json")
    before = [p.read_bytes() for p in results]
    assert workplace.run(model=options).exit_code == 0
    assert workplace.seen() == seen
    assert [p.read_bytes() for p in (workplace.folder / "output/_batchinfer").rglob("run_results.json")] == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"options": {"delay": 0.001}}}, "options.delay"),
        ({"input": {"limit": 2999}}, "input.limit"),
        ({"batching": {"rows": 33}}, "batching.rows: 32 → 33"),
        ({"output": {"carry": "none"}}, "output.carry"),
    ],
)
def test_a_changed_job_is_refused_with_what_changed(workplace: Workplace, change: dict[str, Any], named: str) -> None:
    workplace.write(3000)
    workplace.run()
    before = workplace.digests()
    with pytest.raises(FingerprintError, match="--restart") as caught:
        workplace.run(**change)
    assert named in str(caught.value)
    assert caught.value.exit_code == 2
    assert workplace.digests() == before


def test_changed_code_and_changed_input_are_refused(workplace: Workplace) -> None:
    workplace.write(3000)
    workplace.run()
    source = workplace.folder / "code/doubling.py"
    original = source.read_text()
    source.write_text(original.replace("2.0 *", "3.0 *"))
    with pytest.raises(FingerprintError, match=r"doubling\.py"):
        workplace.run()
    source.write_text(original)
    assert workplace.run().exit_code == 0
    workplace.write(3001)
    with pytest.raises(FingerprintError, match=r"input\.files\.rows: 3000 → 3001"):
        workplace.run()


def test_names_resources_and_retries_may_change_without_a_new_job(workplace: Workplace) -> None:
    workplace.write(3000)
    workplace.run()
    events: list[Any] = []
    other = {
        "name": "renamed",
        "retry": {"max_retries": 7},
        "checkpoint": {"interval": "9s"},
        "metadata": {"team": "search"},
    }
    assert workplace.run(events=events, **other).exit_code == 0
    assert [type(e) for e in events] == [Finished]


def test_restart_begins_anew_and_leaves_only_the_new_jobs_parts(workplace: Workplace) -> None:
    workplace.write(5000)
    workplace.run()
    old = {p.name for p in (workplace.folder / "output/data").iterdir()}
    workplace.write(3000)
    assert workplace.run(restart=True).counts.succeeded == 3000
    new = {p.name for p in (workplace.folder / "output/data").iterdir()}
    assert old & new == {"_SUCCESS"}
    assert len(pl.read_parquet(workplace.folder / "output/data/*.parquet")) == 3000


def test_overwrite_replaces_another_job_and_resumes_the_same(workplace: Workplace) -> None:
    workplace.write(3000)
    workplace.run()
    output = {"mode": "overwrite"}
    assert workplace.run(output=output, input={"limit": 100}).counts.succeeded == 100
    events: list[Any] = []
    workplace.run(output=output, input={"limit": 100}, events=events)
    assert [type(e) for e in events] == [Finished]


def test_a_directory_of_somebody_else_is_never_written(workplace: Workplace) -> None:
    workplace.write(100)
    theirs = workplace.folder / "output/data/part-0.parquet"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    for settings in ({}, {"mode": "overwrite"}):
        with pytest.raises(OutputError, match=r"part-0\.parquet"):
            workplace.run(output=settings)
    with pytest.raises(OutputError):
        workplace.run(restart=True)
    assert theirs.read_bytes() == b"theirs"


def test_filtered_rows_are_counted_and_the_rest_predicted(workplace: Workplace) -> None:
    workplace.write(5000)
    run = workplace.run(input={"where": "x >= 1500 AND x % 2 = 0"})
    counts = run.counts
    assert (counts.planned, counts.succeeded, counts.filtered, counts.dead) == (5000, 1750, 3250, 0)
    assert run.results().collect()["id"].to_list() == list(range(1500, 5000, 2))


def test_a_file_of_no_rows_is_a_success_with_an_empty_part(workplace: Workplace) -> None:
    workplace.write(0)
    run = workplace.run()
    assert (run.exit_code, run.counts.planned) == (0, 0)
    frame = pl.read_parquet(workplace.folder / "output/data/*.parquet")
    assert frame.columns == ["id", "y"]
    assert len(frame) == 0


def test_a_shard_without_good_rows_keeps_the_full_schema(workplace: Workplace) -> None:
    workplace.write(4000, bad=set(range(2000, 4000)))
    run = workplace.run(errors={"threshold": -1})
    assert (run.counts.succeeded, run.counts.dead) == (2000, 2000)
    schemas = {pq.read_schema(p).to_string() for p in (workplace.folder / "output/data").glob("*.parquet")}
    assert len(schemas) == 1


def test_a_job_whose_rows_all_fail_ends_with_all_of_them_dead(workplace: Workplace) -> None:
    workplace.write(300, bad=set(range(300)))
    run = workplace.run(errors={"circuit_breaker": False})
    assert (run.exit_code, run.counts.dead, run.counts.succeeded) == (3, 300, 0)
    assert str(pl.read_parquet(workplace.folder / "output/data/*.parquet").schema["y"]) == "Null"


def test_a_model_that_fails_on_every_row_opens_the_circuit_breaker(workplace: Workplace) -> None:
    workplace.write(3000, bad=set(range(3000)))
    with pytest.raises(CircuitBreakerError, match="first 100 rows failed with TypeError") as caught:
        workplace.run()
    assert caught.value.exit_code == 3
    assert (workplace.opened().state, workplace.opened().exit_code) == (State.FAILED, 3)
    assert not list((workplace.folder / "output").rglob("*.parquet"))
    typed = {"outputs": {"y": {"column": "y", "type": "float64"}}}  # nothing is asked of the model before the run
    run = workplace.run(model=typed, output={"path": str(workplace.folder / "typed")})
    assert (run.exit_code, run.state, run.counts.dead, run.counts.not_attempted) == (3, State.FAILED, 0, 3000)
    assert "circuit_breaker" in run.record["errors"][0]


def test_bad_rows_beside_good_ones_do_not_open_it(workplace: Workplace) -> None:
    workplace.write(3000, bad=set(range(1, 2900)))
    run = workplace.run(errors={"threshold": -1})
    assert (run.exit_code, run.counts.dead) == (0, 2899)


def test_a_wrong_number_of_outputs_stops_the_job(workplace: Workplace) -> None:
    workplace.write(3000)
    source = workplace.folder / "code/doubling.py"
    source.write_text(
        source.read_text().replace('for value in batch["x"]]}', 'for value in batch["x"] if value != 1234]}')
    )
    run = workplace.run()
    assert (run.exit_code, run.state) == (2, State.FAILED)
    assert "gave 31 values for 32 rows" in run.record["errors"][0]
    assert run.counts.planned == run.counts.succeeded + run.counts.not_attempted


def test_a_class_that_cannot_be_built_is_refused(workplace: Workplace) -> None:
    workplace.write(100)
    with pytest.raises(ModelError, match="nonsense"):
        workplace.run(model={"options": {"nonsense": 1}})
    assert workplace.opened().state is State.FAILED


def test_a_corrupt_page_costs_its_shard_alone_and_exit_2(workplace: Workplace) -> None:
    workplace.write(2000, name="a")
    workplace.write(2000, name="b", start=2000)
    path = workplace.folder / "input/b.parquet"
    chunk = pq.read_metadata(path).row_group(1).column(1)
    data = bytearray(path.read_bytes())
    at = chunk.dictionary_page_offset or chunk.data_page_offset
    data[at + 20 : at + chunk.total_compressed_size] = b"\xff" * (chunk.total_compressed_size - 20)
    path.write_bytes(data)
    run = workplace.run()
    assert (run.exit_code, run.state) == (2, State.FAILED)
    assert any("b.parquet" in error for error in run.record["errors"])
    assert run.counts.succeeded == 2000
    assert run.counts.not_attempted == 2000


def test_an_input_that_vanishes_is_said_at_plan_time(workplace: Workplace) -> None:
    with pytest.raises(InputError, match="input"):
        workplace.run()


def test_run_results_hold_the_accounting_and_the_state(workplace: Workplace) -> None:
    workplace.write(1000, bad={5})
    run = workplace.run()
    path = next((workplace.folder / "output/_batchinfer").rglob("run_results.json"))
    record = json.loads(path.read_text())
    assert record["rows"] == {"planned": 1000, "succeeded": 999, "dead": 1, "filtered": 0, "not_attempted": 0}
    assert (record["state"], record["exit_code"]) == ("PARTIAL", 3)
    seal = record.pop("sha256")
    assert len(seal) == 64
    assert record == run.record


def test_events_tell_the_run_from_start_to_end(workplace: Workplace) -> None:
    workplace.write(1000)
    events: list[Any] = []
    workplace.run(events=events)
    assert isinstance(events[0], Started)
    assert isinstance(events[1], Settled)
    assert isinstance(events[-1], Finished)


def test_invalid_outputs_are_dead_and_their_neighbours_are_not(workplace: Workplace) -> None:
    workplace.write(1000)
    source = workplace.folder / "code/doubling.py"
    source.write_text(
        source.read_text().replace("2.0 * float(value)", "float('nan') if value == 700 else 2.0 * float(value)")
    )
    run = workplace.run()
    assert (run.counts.succeeded, run.counts.dead) == (999, 1)
    dead = workplace.dead()[0]
    assert (dead["row"], dead["error_class"], dead["error_type"]) == (700, "invalid_output", "NotFinite")


@pytest.mark.parametrize(
    "end", ["raise SystemExit(0)", "__import__('sys').exit('bye')", "raise BaseException('no exception')"]
)
def test_a_model_that_wants_to_exit_costs_its_row_alone(workplace: Workplace, end: str) -> None:
    workplace.write(1000, bad={7})
    source = workplace.folder / "code/doubling.py"
    source.write_text(source.read_text().replace('raise TypeError("x is null")', end))
    run = workplace.run()
    assert (run.exit_code, run.counts.succeeded, run.counts.dead) == (3, 999, 1)


def test_a_class_that_exits_while_it_is_built_is_refused(workplace: Workplace) -> None:
    workplace.write(10)
    source = workplace.folder / "code/doubling.py"
    source.write_text(source.read_text().replace("self.delay, self.log = delay, log", "raise SystemExit(0)"))
    with pytest.raises(ModelError, match="SystemExit"):
        workplace.run()


def test_nothing_but_parts_lies_under_data(workplace: Workplace) -> None:
    workplace.write(5000, bad={7})
    workplace.run()
    names = sorted(p.name for p in (workplace.folder / "output/data").rglob("*"))
    assert all(name.startswith("part-") and name.endswith(".parquet") for name in names)
    assert len(names) == 3


def test_results_can_be_read_while_shards_are_missing(workplace: Workplace) -> None:
    workplace.write(4000)
    workplace.run()
    output: Path = workplace.folder / "output"
    for manifest in (output / "_batchinfer").rglob("manifests/*.json"):
        manifest.unlink()
    sorted((output / "data").glob("*.parquet"))[1].unlink()
    run = workplace.opened()
    assert len(run.results().collect()) == 2000
    assert (run.counts.succeeded, run.counts.not_attempted) == (2000, 2000)


def test_an_aborted_job_stays_so_without_work_until_more_dead_rows_are_allowed(workplace: Workplace) -> None:
    workplace.write(10_000, bad={3, 4})
    model = {"options": {"log": str(workplace.log)}}
    errors = {"threshold": 1, "on_exceed": "abort"}
    assert workplace.run(model=model, errors=errors).exit_code == 3
    seen, digests = workplace.seen(), workplace.digests()
    assert len(digests) < 5
    events: list[Any] = []
    again = workplace.run(model=model, errors=errors, events=events)
    assert (again.exit_code, [type(e) for e in events]) == (3, [Started, Finished])
    assert (workplace.seen(), workplace.digests()) == (seen, digests)
    assert workplace.run(model=model, errors={**errors, "threshold": 2}).exit_code == 0
    assert workplace.opened().counts.succeeded == 9998


def test_one_value_of_another_type_costs_its_row_alone(workplace: Workplace) -> None:
    workplace.write(200)
    source = "class Mixed:\n    def __call__(self, batch):\n        return {'y': ['odd' if x == 17 else int(x) for x in batch['x']]}\n"
    (workplace.folder / "code" / "mixed.py").write_text(source)
    run = workplace.run(model={"uri": "mixed:Mixed"})
    assert (run.counts.succeeded, run.counts.dead, run.exit_code) == (199, 1, 3)
    assert [(d["row"], d["error_class"], d["error_type"]) for d in workplace.dead()] == [
        (17, "invalid_output", "WrongType")
    ]
    assert run.results().collect()["y"].to_list() == [n for n in range(200) if n != 17]


@pytest.mark.parametrize("interop", [p for p in [UNWRITABLE] if p.exists()], ids=lambda p: p.name)
def test_a_column_that_can_be_read_but_not_written_is_refused_by_name(workplace: Workplace, interop: Path) -> None:
    with pytest.raises(InputError, match=r"output\.carry.*'nested'.*leave it out"):
        workplace.run(input={"path": str(interop)}, output={"carry": "all"}, model={"inputs": {"x": "id"}})
    run = workplace.run(input={"path": str(interop)}, output={"carry": ["id"]}, model={"inputs": {"x": "id"}})
    assert run.exit_code == 0


def test_a_strangers_file_among_the_parts_is_named_and_no_success_is_claimed(workplace: Workplace) -> None:
    workplace.write(100)
    assert workplace.run().exit_code == 0
    data = workplace.folder / "output/data"
    (data / "foreign.parquet").write_bytes(b"hello")
    with pytest.raises(OutputError, match=r"foreign\.parquet.*move it away"):
        workplace.run()
    assert not (data / "_SUCCESS").exists()
    (data / "foreign.parquet").unlink()
    assert workplace.run().exit_code == 0
    assert (data / "_SUCCESS").exists()


def test_dead_letters_that_are_gone_or_damaged_are_named(workplace: Workplace) -> None:
    workplace.write(100, bad={7})
    run = workplace.run()
    (file,) = (workplace.folder / "output/_dead_letter").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(OutputError, match=f"{file.name}.*damaged"):
        run.errors()
    file.unlink()
    with pytest.raises(OutputError, match=f"{file.name}.*gone"):
        run.errors()


def test_a_success_that_a_late_runner_put_does_not_outlive_the_next_start(workplace: Workplace) -> None:
    workplace.write(5000)
    stop = StopRequest()

    def ask(event: Event) -> None:
        if isinstance(event, Started):
            stop.ask("enough")

    assert Job(**workplace.fields()).run(listener=ask, stop=stop).exit_code == 75
    success = workplace.folder / "output/data/_SUCCESS"
    success.parent.mkdir(exist_ok=True)
    success.touch()
    seen: list[bool] = []

    def look(event: Event) -> None:
        if isinstance(event, Started):
            seen.append(success.exists())

    assert Job(**workplace.fields()).run(listener=look).exit_code == 0
    assert seen == [False]
    assert success.exists()


def test_a_damaged_part_of_a_former_run_ends_the_next_one_early(workplace: Workplace) -> None:
    rows = 4000
    workplace.write(rows)
    batching = {"shard": 400, "window": 200, "rows": 32}
    model = {"options": {"log": str(workplace.log), "delay": 0.02}}
    assert workplace.run(batching=batching, model=model).exit_code == 0
    standing, *others = sorted((workplace.folder / "output/data").glob("*.parquet"))
    standing.write_bytes(standing.read_bytes()[:-100])
    for path in (*others, *(workplace.folder / "output/_batchinfer").glob("*/manifests/*")):
        path.unlink()
    workplace.log.unlink()
    with pytest.raises(OutputError, match=f"{standing.name}: this part is damaged"):
        workplace.run(batching=batching, model=model)
    assert workplace.seen() <= 1000
