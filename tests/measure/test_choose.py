"""Settings: their record, and how they are chosen, with engines that do what a test says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.errors import ModelError, StorageError
from batchinfer.job.steps import Batching, Step
from batchinfer.measure.candidates import Candidate
from batchinfer.measure.choose import choose
from batchinfer.measure.output_types import NULL_ROWS
from batchinfer.measure.settings import Settings, StepSettings, schema_from_text, schema_to_text
from batchinfer.pipeline.batching import Budget
from batchinfer.precision.recipes import bits
from tests.measure.fake_engine import FLOAT, FakeEngine, doubled, step, table
from tests.settings import of_one


def chosen(
    engine: FakeEngine,
    values: Any = range(100),
    of: Step | None = None,
    rows: int | None = None,
    batching: Batching | None = None,
    windows: list[pa.Table] | None = None,
    candidates: tuple[str, ...] = ("fp32", "bf16"),
) -> StepSettings:
    tables = windows if windows is not None else [table(values)]
    return choose(
        engine,
        of or step("python"),
        tables,
        batching or Batching(),
        "cpu",
        2,
        sum(map(len, tables)) if rows is None else rows,
        candidates=None if of is None or of.engine == "python" else [Candidate(n, bits(n)) for n in candidates],
    )


LARGE = 10**9

# Precision.


@pytest.mark.parametrize(("fast", "slow"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_auto_takes_the_faster_precision_and_leaves_it_loaded(fast: str, slow: str) -> None:
    engine = FakeEngine(doubled, FLOAT, seconds={fast: 0.001, slow: 0.05})
    settings = chosen(engine, of=step(), rows=LARGE)
    assert settings.precision == engine.loaded == fast
    assert settings.measured["rows_per_second"].keys() == {"fp32", "bf16"}
    assert settings.measured["failed"] == {}
    json.dumps(settings.to_json())


def test_a_precision_of_16_bits_that_is_asked_for_is_compared_where_that_costs_little_and_never_refused() -> None:
    engine = FakeEngine(doubled, FLOAT, seconds={"bf16": 0.001})
    settings = chosen(engine, of=step(precision="bf16"), rows=LARGE)
    assert settings.precision == engine.loaded == "bf16"
    assert engine.loads == ["bf16", "fp32", "bf16"]
    assert settings.measured["gate"]["passed"]
    small = FakeEngine(doubled, FLOAT, seconds={"bf16": 0.01}, load_seconds=0.1)
    told = chosen(small, of=step(precision="bf16"), rows=40_000).measured["gate"]
    assert "more than 3% of the job" in told["not_compared"]
    assert small.loads == ["bf16"]


def test_full_precision_that_is_asked_for_is_compared_with_nothing() -> None:
    engine = FakeEngine(doubled, FLOAT)
    settings = chosen(engine, of=step(precision="fp32"), rows=LARGE)
    assert settings.precision == "fp32"
    assert not settings.measured.keys() & {"rows_per_second", "gate", "gates"}
    assert engine.loads == ["fp32"]


def test_a_precision_that_is_asked_for_and_impossible_is_refused() -> None:
    with pytest.raises(ModelError, match="no bf16 on cpu"):
        chosen(FakeEngine(doubled, FLOAT, refuses=("bf16",)), of=step(precision="bf16"))


def test_a_candidate_that_cannot_be_loaded_is_named_and_the_other_is_loaded_again() -> None:
    engine = FakeEngine(doubled, FLOAT, refuses=("bf16",))
    settings = chosen(engine, of=step(), rows=LARGE)
    assert settings.precision == engine.loaded == "fp32"
    assert settings.measured["failed"] == {"bf16": "no bf16 on cpu"}


def test_a_candidate_that_breaks_on_a_batch_is_named_and_ends_nothing() -> None:
    engine = FakeEngine(doubled, FLOAT, breaks=("bf16",))
    settings = chosen(engine, of=step(), rows=LARGE)
    assert settings.precision == engine.loaded == "fp32"
    assert settings.measured["failed"] == {"bf16": "RuntimeError: 'erfinv' not implemented for bf16"}


def test_a_model_that_cannot_be_loaded_at_all_is_refused() -> None:
    with pytest.raises(ModelError, match="no fp32"):
        chosen(FakeEngine(doubled, FLOAT, refuses=("fp32", "bf16")), of=step(), rows=LARGE)


def test_a_small_job_is_not_measured_and_says_so() -> None:
    engine = FakeEngine(doubled, FLOAT, seconds={"fp32": 0.001})
    settings = chosen(engine, of=step(), rows=1000)
    assert engine.loads == ["fp32"]
    assert settings.measured["precision"] == "fp32: the job is too small for measuring to pay"
    assert settings.measured["skipped"] == {}


def test_a_candidate_whose_timing_would_be_too_much_of_the_job_is_named_as_skipped() -> None:
    engine = FakeEngine(doubled, FLOAT, seconds={"fp32": 0.01}, load_seconds=0.02)
    settings = chosen(engine, of=step(), rows=27_000)
    assert engine.loads == ["fp32"]
    assert "more than 3% of the job" in settings.measured["skipped"]["bf16"]


@pytest.mark.parametrize("bad", [-1, -2])
def test_a_bad_first_row_ends_no_measuring_of_the_job(bad: int) -> None:
    """-1 can't be prepared, -2 makes its batch fail."""

    def model(batch: list[int]) -> Mapping[str, Any]:
        if -2 in batch:
            raise IndexError("index out of range in self")
        return doubled(batch)

    engine = FakeEngine(model, FLOAT)
    settings = chosen(engine, [bad, *range(99)], of=step(), rows=LARGE)
    assert settings.precision == engine.loaded
    assert settings.outputs.types == [pa.float32()]


def test_an_engine_without_recipes_is_native() -> None:
    engine = FakeEngine(doubled)
    assert chosen(engine).precision == "native"
    assert engine.loads == ["native"]


# Budgets.


def test_rows_with_lengths_get_a_token_budget() -> None:
    engine = FakeEngine(doubled, FLOAT, lengths=True)
    assert chosen(engine).budget == Budget(512, 1024)
    assert chosen(engine, batching=Batching(rows=8, tokens=100)).budget == Budget(8, 100)


def test_rows_without_lengths_are_budgeted_by_their_size() -> None:
    assert chosen(FakeEngine(doubled, FLOAT)).budget == Budget(1024)
    assert chosen(FakeEngine(doubled, FLOAT), of=step(precision="fp32")).budget == Budget(16384)
    assert chosen(FakeEngine(doubled, FLOAT), batching=Batching(rows=3)).budget == Budget(3)


# Output types.


def test_a_type_is_the_first_one_seen_and_only_a_small_batch_is_asked() -> None:
    engine = FakeEngine(doubled)
    settings = chosen(engine, range(5000))
    assert settings.outputs == pa.schema([("score", pa.float64())])
    assert engine.rows == 16


def test_types_that_are_declared_or_known_ask_the_model_nothing() -> None:
    engine = FakeEngine(doubled, {"y": pa.float32(), "z": None})
    settings = chosen(engine, of=step("python", y="score", z={"column": "label", "type": "list<string>"}))
    assert settings.outputs == pa.schema([("score", pa.float32()), ("label", pa.list_(pa.string()))])
    assert engine.rows == 0


def test_a_declared_type_wins_over_the_engines() -> None:
    settings = chosen(FakeEngine(doubled, FLOAT), of=step("python", y={"column": "score", "type": "float64"}))
    assert settings.outputs.types == [pa.float64()]


def test_a_type_is_looked_for_until_a_value_comes() -> None:
    engine = FakeEngine(lambda b: {"y": [None if v < 3000 else "late" for v in b]})
    settings = chosen(engine, windows=[table(range(2000)), table([]), table(range(2000, 4000))])
    assert settings.outputs.types == [pa.string()]


def test_an_output_that_is_null_in_all_of_a_small_job_is_null() -> None:
    assert chosen(FakeEngine(lambda b: {"y": [None] * len(b)}), range(500)).outputs.types == [pa.null()]


def test_an_output_that_stays_null_is_looked_for_to_the_end_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine(lambda b: {"y": [None] * len(b)})
    assert chosen(engine, range(10 * NULL_ROWS)).outputs.types == [pa.null()]
    (said,) = caplog.messages
    assert "output 'y' has no value in the first" in said
    assert "model.outputs.y: {column: score, type: string}" in said


def test_a_first_value_late_in_a_large_job_gives_the_type(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(lambda b: {"y": [None if v < 3 * NULL_ROWS else "late" for v in b]})
    assert chosen(engine, range(10 * NULL_ROWS)).outputs.types == [pa.string()]
    assert engine.rows < 4 * NULL_ROWS
    assert len(caplog.messages) == 1


def test_empty_lists_have_no_type_yet() -> None:
    engine = FakeEngine(lambda b: {"y": [[] if v < 100 else ["tag"] for v in b]})
    assert chosen(engine, range(300)).outputs.types == [pa.list_(pa.string())]
    assert chosen(engine, range(50)).outputs.types == [pa.list_(pa.null())]


def test_a_missing_output_is_named_with_those_that_are_there() -> None:
    with pytest.raises(ModelError, match=r"the model gave no output 'y', only 'z': correct model.outputs"):
        chosen(FakeEngine(lambda b: {"z": b}))


def test_rows_that_fail_are_passed_over() -> None:
    def model(batch: list[int]) -> Mapping[str, Any]:
        if min(batch) < 20:
            raise ValueError("too small")
        return doubled(batch)

    assert chosen(FakeEngine(model), range(100)).outputs.types == [pa.float64()]
    assert chosen(FakeEngine(doubled), [-1, *range(30)]).outputs.types == [pa.float64()]


def failing(batch: list[int]) -> Mapping[str, Any]:
    raise ValueError(f"no model for {len(batch)}")


def test_a_small_job_whose_rows_all_fail_has_null_types() -> None:
    assert chosen(FakeEngine(failing), range(500)).outputs.types == [pa.null()]


def test_a_large_job_whose_rows_all_fail_has_null_types_where_no_breaker_watches() -> None:
    assert chosen(FakeEngine(failing), range(2 * NULL_ROWS)).outputs.types == [pa.null()]


@pytest.mark.parametrize("error", [ModelError("wrong"), StorageError("away")])
def test_what_is_no_rows_fault_ends_the_choosing(error: Exception) -> None:
    def model(_batch: list[int]) -> Mapping[str, Any]:
        raise error

    with pytest.raises(type(error)):
        chosen(FakeEngine(model))


def test_a_type_that_parquet_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"output 'y' is struct<>, which Parquet can't hold"):
        chosen(FakeEngine(lambda b: {"y": [{}] * len(b)}))


def test_a_job_without_rows_has_settings_too() -> None:
    settings = chosen(FakeEngine(doubled), windows=[])
    assert settings.outputs.types == [pa.null()]
    assert chosen(FakeEngine(doubled, FLOAT), windows=[], of=step()).precision == "fp32"


# The record.

STEP = StepSettings(
    "bf16",
    Budget(512, 1024),
    4,
    pa.schema(
        [
            ("e", pa.list_(pa.float32(), 384)),
            ("t", pa.timestamp("us", "UTC")),
            ("s", pa.struct([("a", pa.decimal128(9, 2))])),
            ("d", pa.dictionary(pa.int8(), pa.string())),
            ("ä b", pa.null()),
        ]
    ),
    measured={"rows_per_second": {"bf16": 10.5}},
)
SETTINGS = of_one(STEP, {"process": 1, "peak": 2})


def test_settings_read_back_from_their_record_with_the_same_digest() -> None:
    back = Settings.from_json(json.loads(json.dumps(SETTINGS.to_json())))
    assert back == SETTINGS
    assert back.steps["model"].measured == STEP.measured
    assert back.memory == SETTINGS.memory
    assert back.digest == SETTINGS.digest
    assert back.outputs.equals(SETTINGS.outputs, check_metadata=True)
    assert schema_from_text(schema_to_text(back.outputs)) == back.outputs


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "fp32"},
        {"budget": Budget(511, 1024)},
        {"budget": Budget(512, None)},
        {"threads": 5},
        {"outputs": pa.schema([("e", pa.list_(pa.float64(), 384))])},
    ],
)
def test_all_that_decides_about_results_is_in_the_digest(change: dict[str, Any]) -> None:
    assert of_one(replace(STEP, **change)).digest != SETTINGS.digest


def test_figures_for_people_are_not_in_the_digest() -> None:
    assert of_one(replace(STEP, measured={})).digest == SETTINGS.digest


@pytest.mark.parametrize(("threads", "streams"), [(16, 4), (8, 4), (7, 3), (4, 2), (2, 1), (1, 1)])
def test_a_machine_with_fewer_cores_makes_fewer_calls_at_a_time_of_as_many_threads(threads: int, streams: int) -> None:
    measured = of_one(StepSettings("fp32", Budget(8), 2, pa.schema([]), 4))
    there = measured.within(lambda _: threads)
    assert (there.steps["model"].streams, there.steps["model"].threads) == (streams, 2)
    assert there.digest == measured.digest
    assert measured.threads() == 8
