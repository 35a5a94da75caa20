"""Settings: their record, and how they are chosen, with engines that do what a test says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from batchinfer.engines.protocol import Description, Rows
from batchinfer.errors import ModelError, StorageError
from batchinfer.job.spec import Batching, Step
from batchinfer.measure.candidates import Candidate
from batchinfer.measure.choose import choose
from batchinfer.measure.output_types import NULL_ROWS
from batchinfer.measure.settings import Settings, schema_from_text, schema_to_text
from batchinfer.measure.timing import timed_batches
from batchinfer.pipeline.batching import Budget, positions
from batchinfer.precision.recipes import bits

Model = Callable[[list[int]], Mapping[str, Any]]


class Prepared:
    def __init__(self, values: list[int], lengths: NDArray[np.int64] | None) -> None:
        self.values, self.lengths, self.truncated = values, lengths, None

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, rows: Rows) -> list[int]:
        return [self.values[n] for n in (positions(rows) if isinstance(rows, slice) else rows)]


class FakeEngine:
    """A model that is a function of the values of `x`; keeps to the engine protocol."""

    def __init__(
        self,
        model: Model,
        types: Mapping[str, pa.DataType | None] | None = None,
        *,
        seconds: Mapping[str, float] | None = None,
        refuses: tuple[str, ...] = (),
        breaks: tuple[str, ...] = (),
        lengths: bool = False,
        side_by_side: bool = True,
    ) -> None:
        self._side_by_side = side_by_side
        self._model, self._types, self._seconds = model, types or {"y": None}, seconds or {}
        self._refuses, self._breaks, self._lengths = refuses, breaks, lengths
        self.loads: list[str] = []
        self.loaded: str | None = None
        self.rows = self.threads = 0

    def load(self, device: str, precision: str, threads: int) -> Description:
        self.loads.append(precision)
        self.threads = threads
        self.loaded = None
        if precision in self._refuses:
            raise ModelError(f"no {precision} on {device}")
        self.loaded = precision
        return Description(self._types, precision, device, side_by_side=self._side_by_side)

    def prepare(self, rows: pa.Table) -> Prepared:
        values = rows["x"].to_pylist()
        if -1 in values:
            raise ValueError("x is -1, which can't be prepared")
        return Prepared(values, np.array(values, np.int64) if self._lengths else None)

    def infer(self, batch: list[int]) -> Mapping[str, Any]:
        assert self.loaded is not None, "no model is loaded"
        if self.loaded in self._breaks:
            raise RuntimeError(f"'erfinv' not implemented for {self.loaded}")
        time.sleep(self._seconds.get(self.loaded, 0))
        self.rows += len(batch)
        return self._model(batch)

    def finish(self, outputs: Any) -> Mapping[str, pa.Array]:
        return {k: v if isinstance(v, pa.Array) else pa.array(v) for k, v in outputs.items()}


def step(engine: str = "torch", precision: str = "auto", **outputs: Any) -> Step:
    keys = {"engine": engine, "uri": "/m.pt", "inputs": {"x": "x"}, "outputs": outputs or {"y": "score"}}
    return Step.model_validate({**keys, "precision": precision})


def table(values: Any) -> pa.Table:
    return pa.table({"x": pa.array(list(values), pa.int64())})


def chosen(
    engine: FakeEngine,
    values: Any = range(100),
    of: Step | None = None,
    rows: int | None = None,
    batching: Batching | None = None,
    windows: list[pa.Table] | None = None,
    candidates: tuple[str, ...] = ("fp32", "bf16"),
) -> Settings:
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


def doubled(batch: list[int]) -> Mapping[str, Any]:
    return {"y": [float(v) * 2 for v in batch]}


FLOAT = {"y": pa.float32()}
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
    small = FakeEngine(doubled, FLOAT, seconds={"bf16": 0.001})
    told = chosen(small, of=step(precision="bf16"), rows=20_000).measured["gate"]
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
    engine = FakeEngine(doubled, FLOAT, seconds={"fp32": 0.01})
    settings = chosen(engine, of=step(), rows=14_000)
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

SETTINGS = Settings(
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


def test_settings_read_back_from_their_record_with_the_same_digest() -> None:
    back = Settings.from_json(json.loads(json.dumps(SETTINGS.to_json())))
    assert back == SETTINGS
    assert back.measured == SETTINGS.measured
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
    assert replace(SETTINGS, **change).digest != SETTINGS.digest


def test_figures_for_people_are_not_in_the_digest() -> None:
    assert replace(SETTINGS, measured={}).digest == SETTINGS.digest


@pytest.mark.parametrize(("threads", "streams"), [(16, 4), (8, 4), (7, 3), (4, 2), (2, 1), (1, 1)])
def test_a_machine_with_fewer_cores_makes_fewer_calls_at_a_time_of_as_many_threads(threads: int, streams: int) -> None:
    measured = Settings("fp32", Budget(8), 2, pa.schema([]), 4)
    there = measured.within(threads)
    assert (there.streams, there.threads) == (streams, 2)
    assert there.digest == measured.digest


def test_a_gpu_gets_two_calls_at_a_time_where_that_is_faster_and_its_model_stays_loaded() -> None:
    engine = FakeEngine(doubled, seconds={"fp32": 0.004})
    settings = choose(
        engine,
        step("torch", precision="fp32"),
        [table(range(2000))],
        Batching(rows=50),
        "cuda",
        16,
        100_000_000,
        candidates=[Candidate("fp32", 32)],
    )
    assert (settings.streams, settings.threads) == (2, 8)
    assert engine.loads == ["fp32"]


def with_eight_threads(engine: FakeEngine, of: Step, device: str = "cpu", *, side_by_side: bool = True) -> Settings:
    """The settings of a job that is too small for trying anything."""
    compiled = Candidate("fp32-compiled", 32, compiles=True)
    rows, some = [table(range(8))], [Candidate("fp32", 32), compiled]
    return choose(engine, of, rows, Batching(rows=8), device, 8, 8, candidates=some, side_by_side=side_by_side)


@pytest.mark.parametrize(
    ("engine", "precision", "device", "calls"),
    [
        ("torch", "fp32", "cpu", 4),
        ("transformers", "fp32-compiled", "cpu", 4),
        ("torch", "fp32-compiled", "cpu", 1),
        ("openvino", "fp32", "cpu", 1),
        ("torch", "fp32", "cuda", 1),
    ],
    ids=["a CPU", "compiled and shared", "compiled and not shared", "a graph with weights for each call", "a GPU"],
)
def test_where_nothing_can_be_tried_a_cpus_threads_are_split_into_calls(
    engine: str, precision: str, device: str, calls: int
) -> None:
    model = FakeEngine(doubled)
    settings = with_eight_threads(model, step(engine, precision=precision), device)
    assert (settings.streams, settings.threads) == (calls, 8 // calls)
    assert model.threads == 8 // calls


def test_in_a_process_that_makes_one_call_at_a_time_it_has_all_threads() -> None:
    settings = with_eight_threads(FakeEngine(doubled), step("torch", precision="fp32"), side_by_side=False)
    assert (settings.streams, settings.threads) == (1, 8)


def test_a_model_that_takes_one_call_at_a_time_is_loaded_with_all_threads() -> None:
    model = FakeEngine(doubled, side_by_side=False)
    settings = with_eight_threads(model, step("torch", precision="fp32"))
    assert (settings.streams, settings.threads, model.threads) == (1, 8, 8)


def test_where_the_shortest_rows_are_too_many_the_longer_ones_are_timed_alone() -> None:
    engine = FakeEngine(doubled, lengths=True)
    engine.load("cpu", "fp32", 1)
    rows, budget = table([100] * 6 + [20] * 20 + [1] * 200), Budget(512, 200)
    for most, sizes in ((1000, [2, 10, 200]), (20, [2, 10]), (5, [2])):
        timed = timed_batches(engine, rows, budget, most)
        assert timed is not None
        assert [len(payload) for payload in timed.payloads] == sizes
    assert timed_batches(engine, rows, budget, 1) is None
