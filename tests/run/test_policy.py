"""What follows from failures and dead rows, and what a worker gets."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.engines.device import gpu_count
from batchinfer.job.spec import JobSpec
from batchinfer.measure.settings import Settings, StepSettings
from batchinfer.pipeline.batching import Budget
from batchinfer.run import resources
from batchinfer.run.policy import QUARANTINE, Action, allowed_dead, counted, deaths_before, decide, verdict
from batchinfer.run.resources import Allotment, allot
from batchinfer.worker.context import Failed, Failure
from tests.settings import of_one

CORES = resources.cpu_count()
DEATHS = (Failure.DIED, Failure.LOST, Failure.HUNG, Failure.POISONED)


@pytest.mark.parametrize(
    ("threshold", "planned", "allowed"),
    [
        (0, 100, 0),
        (5, 100, 5),
        (500, 100, 500),
        (-1, 100, math.inf),
        ("0.1%", 1000, 1),
        ("0.1%", 999, 0),
        ("0.1%", 1999, 1),
        ("0%", 1000, 0),
        ("100%", 7, 7),
        ("50%", 7, 3),
        ("0.57%", 100_000, 570),
        ("0.29%", 100_000, 290),
        ("1.1%", 1000, 11),
        ("1e-05%", 10**9, 100),
        ("3%", 0, 0),
    ],
)
def test_a_threshold_is_rows_or_an_exact_share_or_any(threshold: int | str, planned: int, allowed: float) -> None:
    assert allowed_dead(threshold, planned) == allowed
    assert verdict(0, threshold, planned) == 0
    if allowed < math.inf:
        assert verdict(int(allowed), threshold, planned) == 0
        assert verdict(int(allowed) + 1, threshold, planned) == 3


@pytest.mark.parametrize("written", ["0.57%", "12.5 %", "0.001%", "100%", -1, 0, 7])
def test_a_threshold_of_a_job_file_is_understood(written: int | str) -> None:
    job = spec(errors={"threshold": written})
    assert allowed_dead(job.errors.threshold, 100_000) >= 0


def failed(kind: Failure) -> Failed:
    return Failed(1, kind, "why")


@pytest.mark.parametrize("kind", [Failure.DIED, Failure.LOST, Failure.HUNG, Failure.POISONED])
def test_a_shard_that_ends_its_worker_is_tried_again_also_in_quarantine_and_not_for_ever(kind: Failure) -> None:
    assert [decide(failed(kind), n, 1) for n in (1, 2, 3, 4)] == [*[Action.RETRY] * 3, Action.ABORT]
    assert [decide(failed(kind), n, 0) for n in (2, 3)] == [Action.RETRY, Action.ABORT]


def test_deaths_count_one_by_one_and_what_would_happen_again_goes_to_quarantine_at_once() -> None:
    assert counted(failed(Failure.DIED), 0, 3) == counted(failed(Failure.LOST), 0, 3) == 1
    assert counted(failed(Failure.DIED), 1, 3) == QUARANTINE
    assert counted(failed(Failure.HUNG), 0, 3) == counted(failed(Failure.POISONED), 0, 3) == QUARANTINE
    assert counted(failed(Failure.HUNG), 2, 3) == 3
    assert counted(failed(Failure.DIED), 0, 0) == QUARANTINE
    assert counted(failed(Failure.INPUT), 0, 3) == 0


def test_an_unclean_end_counts_for_what_was_in_hand_and_never_beyond_quarantine() -> None:
    assert deaths_before({}, [], [3, 4]) == {}
    assert deaths_before({}, [3, 4], [3, 4, 5]) == {3: 1, 4: 1}
    assert deaths_before({3: 1, 9: 2}, [3], [3, 4]) == {3: QUARANTINE}
    assert deaths_before({3: 7}, [3], [3]) == {3: QUARANTINE}
    assert deaths_before({4: 1}, [], [3, 4]) == {4: 1}


@pytest.mark.parametrize("kind", [k for k in Failure if k not in DEATHS])
def test_a_file_that_cannot_be_read_costs_its_shard_and_all_else_ends_the_run(kind: Failure) -> None:
    assert decide(failed(kind), 0, 3) is (Action.GIVE_UP if kind is Failure.INPUT else Action.ABORT)


def spec(engine: str = "torch", **more: Any) -> JobSpec:
    step = {"engine": engine, "uri": "/m.pt", "inputs": {"x": "x"}, "outputs": {"y": "y"}}
    keys = {"version": 1, "name": "n", "input": {"path": "/in"}, "output": {"path": "/out"}, "steps": [step], **more}
    return JobSpec.model_validate(keys)


Ask = Callable[..., Allotment]


def begun(threads: int) -> Settings:
    """Of a job that was begun with so many threads."""
    return of_one(StepSettings("fp32", Budget(8), threads, pa.schema([("y", pa.float32())])))


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """What `resources` comes to where CUDA_VISIBLE_DEVICES is `cuda`."""

    def asked(cuda: str = "", engine: str = "torch", pinned: int | None = None, **keys: Any) -> Allotment:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cuda)
        return allot(spec(engine, resources=keys), None if pinned is None else begun(pinned))

    return asked


def test_without_a_gpu_one_worker_runs_inline_with_all_cores(ask: Ask) -> None:
    assert ask() == Allotment("inline", 1, CORES, None)


def test_one_gpu_is_one_worker_inline(ask: Ask) -> None:
    assert ask("0") == Allotment("inline", 1, CORES, 1.0)


def test_each_gpu_gets_a_worker_on_ray(ask: Ask) -> None:
    assert ask("0,1") == Allotment("ray", 2, max(1, CORES // 2), 1.0)


def test_a_python_class_gets_no_workers_for_gpus(ask: Ask) -> None:
    assert ask("0,1", engine="python") == Allotment("inline", 1, CORES, None)


def test_no_gpus_asked_for_is_one_worker_without(ask: Ask) -> None:
    assert ask("0,1", gpus=0) == Allotment("inline", 1, CORES, 0)


def test_inline_on_a_machine_of_many_gpus_has_all_cores(ask: Ask) -> None:
    assert ask("0,1,2,3", executor="inline") == Allotment("inline", 1, CORES, 1.0)


def test_several_workers_run_on_ray_and_share_the_cores(ask: Ask) -> None:
    assert ask(workers=2) == Allotment("ray", 2, max(1, CORES // 2), None)
    assert ask(workers=10 * CORES).threads == 1


def test_a_cluster_is_asked_for_its_workers_later(ask: Ask) -> None:
    assert ask(address="auto") == Allotment("ray", None, CORES, None)
    assert ask(address="auto", workers=3).workers == 3


def test_what_is_asked_for_is_given(ask: Ask) -> None:
    assert ask("0,1", executor="ray", workers=1, cpus=3, gpus=0.5) == Allotment("ray", 1, 3, 0.5)


def test_pinned_threads_are_kept_where_they_fit_and_not_asked_otherwise(ask: Ask) -> None:
    assert ask(pinned=1).threads == 1
    assert ask(pinned=CORES + 1).threads == CORES
    assert ask(pinned=1, cpus=2).threads == 2


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("", 0),
        ("0", 1),
        ("0,1", 2),
        (" 3 , 1 ", 2),
        ("-1", 0),
        ("0,-1,1", 1),
        ("NoDevFiles", 0),
        ("none", 0),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,1", 2),
        ("MIG-GPU-8932/1/0", 1),
    ],
)
def test_visible_devices_are_counted_as_cuda_counts_them(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_count() == count


def test_only_the_cores_that_this_process_may_use_are_counted() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert resources.cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)
