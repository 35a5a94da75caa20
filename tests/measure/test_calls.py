"""Into how many calls at a time a worker's threads are split, with an engine that does what a test says."""

from __future__ import annotations

import pytest

from batchinfer.job.steps import Batching, Step
from batchinfer.measure.candidates import Candidate
from batchinfer.measure.choose import choose
from batchinfer.measure.settings import StepSettings
from tests.measure.fake_engine import FLOAT, FakeEngine, doubled, step, table


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


def with_eight_threads(engine: FakeEngine, of: Step, device: str = "cpu", *, side_by_side: bool = True) -> StepSettings:
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


@pytest.mark.parametrize(("seconds", "precision", "calls"), [(0.002, "int8", 1), (0.01, "fp32", 4)])
def test_a_users_module_that_is_compiled_is_timed_as_it_runs_with_all_threads_beside_calls_that_share_them(
    seconds: float, precision: str, calls: int
) -> None:
    """Four calls of fp32 take 0.02 s each: one that answers as much in half of that is slower than they are together."""
    model = FakeEngine(doubled, FLOAT, seconds={"fp32": 0.02, "int8": seconds})
    settings = choose(
        model,
        step("torch"),
        [table(range(64))],
        Batching(rows=64),
        "cpu",
        8,
        10**9,
        candidates=[Candidate("fp32", 32), Candidate("int8", 8, compiles=True)],
    )
    assert (settings.precision, settings.streams, settings.threads) == (precision, calls, 8 // calls)
    assert model.threads == 8 // calls
