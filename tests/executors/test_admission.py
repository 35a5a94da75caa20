"""Memory is asked for before the models are loaded: what can't fit is refused, and what fits once loaded is loaded by turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import open_run
from batchinfer.errors import ResourceError
from batchinfer.executors.admission import Candidate, admit, fits
from batchinfer.executors.inline import InlineExecutor
from batchinfer.executors.protocol import Executor
from batchinfer.job import load
from batchinfer.measure.settings import Settings, StepSettings
from batchinfer.pipeline.batching import Budget
from batchinfer.plan.plan import make_plan
from batchinfer.storage.paths import JobPaths
from batchinfer.worker.context import Context
from batchinfer.worker.memory import Need, Room, free_bytes
from tests.settings import of_one

GB = 1_000_000_000
SOURCE = """
import time
import numpy as np


class Model:
    def __init__(self, log, gigabytes=0.0, seconds=0.0):
        begun = time.time()
        self.weights = np.ones(int(gigabytes * 1e9), np.int8)
        time.sleep(seconds)
        with open(log, "a") as file:
            file.write(f"{begun} {time.time()}\\n")

    def __call__(self, batch):
        return {"y": batch["x"]}
"""


def rooms(count: int, free: float, machine: str = "a", loaded: int = 0, **more: Any) -> list[Room]:
    return [Room(machine, f"host-{machine}", int(free * GB), loaded=n < loaded, **more) for n in range(count)]


def asking(need: Need, rooms: list[Room], key: str = "resources.workers") -> list[Candidate]:
    return [Candidate(need, room, key) for room in rooms]


def test_workers_that_fit_are_admitted_and_load_side_by_side() -> None:
    assert admit(asking(Need(3 * GB, 3 * GB), rooms(4, 13))) == {"a": 4}


def test_too_many_workers_are_refused_with_the_numbers() -> None:
    with pytest.raises(ResourceError) as raised:
        admit(asking(Need(3 * GB, 3 * GB), rooms(4, 10)))
    assert raised.value.exit_code == 2
    assert str(raised.value) == (
        "resources.workers: 4 workers on host-a need 3.0 GB of memory each, as the first load of the model was measured; 4 workers "
        "still to load it need 12.0 GB, and 9.5 GB can be used: set resources.workers to 3 or less"
    )


def test_what_a_worker_has_loaded_already_is_not_asked_for_again() -> None:
    assert admit(asking(Need(3 * GB, 3 * GB), rooms(4, 10, loaded=1))) == {"a": 4}
    with pytest.raises(ResourceError, match="to 3 or less"):
        admit(asking(Need(3 * GB, 3 * GB), rooms(4, 9, loaded=1)))


def test_each_machine_counts_for_itself() -> None:
    need = Need(3 * GB, 3 * GB)
    assert admit(asking(need, [*rooms(2, 7, "a"), *rooms(2, 7, "b")])) == {"a": 2, "b": 2}
    with pytest.raises(ResourceError, match="2 workers on host-b"):
        admit(asking(need, [*rooms(2, 7, "a"), *rooms(2, 5, "b")]))


@pytest.mark.parametrize(("free", "at_once"), [(13, 1), (15, 2), (22, 4), (11, 1)])
def test_as_many_load_at_a_time_as_their_peaks_leave_room_for(free: float, at_once: int) -> None:
    assert admit(asking(Need(2 * GB, 5 * GB), rooms(4, free))) == {"a": at_once}


def test_models_that_share_a_gpu_must_fit_into_it() -> None:
    need, more = Need(GB, GB, 30 * GB), {"device": "GPU-1", "device_free": 79 * GB}
    assert admit(asking(need, rooms(2, 99, **more))) == {"a": 2}
    with pytest.raises(ResourceError, match=r"3 workers on a GPU of host-a need 30\.0 GB .* to 2 or less"):
        admit(asking(need, rooms(3, 99, **more)))


def test_where_not_one_fits_another_number_of_workers_is_no_remedy() -> None:
    with pytest.raises(ResourceError, match="free some, or take a smaller model"):
        admit(asking(Need(3 * GB, 3 * GB), rooms(2, 1)))


def test_a_machine_that_tells_nothing_refuses_nothing() -> None:
    assert admit(asking(Need(3 * GB, 9 * GB), [Room("a", "host-a", None)] * 4)) == {"a": 4}


@pytest.mark.parametrize(("need", "there"), [(3, False), (2, True)])
def test_one_more_fits_where_there_is_room_for_it(need: int, there: bool) -> None:
    (room,) = rooms(1, 2.5)
    assert fits(Need(need * GB, need * GB), room) is there


def fields(folder: Path, **options: Any) -> dict[str, Any]:
    (folder / "heavy.py").write_text(SOURCE)
    pq.write_table(pa.table({"x": pa.array(range(8), pa.int64())}), folder / "in.parquet")
    outputs = {"y": {"column": "y", "type": "int64"}}
    options = {"log": str(folder / "loads"), **options}
    return {
        "version": 1,
        "name": "heavy",
        "code": [str(folder)],
        "input": {"path": str(folder / "in.parquet")},
        "model": {
            "engine": "python",
            "uri": "heavy:Model",
            "inputs": {"x": "x"},
            "outputs": outputs,
            "options": options,
        },
        "output": {"path": str(folder / "out")},
    }


def opened(folder: Path, need: Need, workers: int, **options: Any) -> tuple[Executor, Settings]:
    """An executor, inline for no workers, and settings of a job whose first load was measured so."""
    from batchinfer.executors.ray import RayExecutor

    plan = make_plan(load.from_fields(fields(folder, **options)))
    context = Context(plan.spec, plan.reading, JobPaths("0123abcd"), threads=1, gpus=0, workers=workers)
    memory = {"process": 0, "peak": need.peak, "steps": {"model": {"process": need.process, "device": 0}}}
    settings = of_one(StepSettings("native", Budget(8), 1, pa.schema([("y", pa.int64())])), memory)
    return InlineExecutor(context) if workers == 0 else RayExecutor(context, workers, None), settings


@pytest.fixture(name="loads")
def _loads(tmp_path: Path) -> Path:
    return tmp_path / "loads"


def test_the_first_load_is_measured(tmp_path: Path) -> None:
    """In a process of its own: what this one has freed before, a model could take without any growth."""
    code = "import json, sys; from batchinfer import Job; sys.exit(Job(**json.loads(sys.argv[1])).run().exit_code)"
    command = [sys.executable, "-c", code, json.dumps(fields(tmp_path, gigabytes=0.3))]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).returncode == 0
    memory = open_run(tmp_path / "out").record["settings"]["memory"]
    took = memory["process"] + memory["steps"]["model"]["process"]
    assert 0.3 * GB <= took < 0.7 * GB
    assert memory["steps"]["model"]["process"] > 0.29 * GB
    assert memory["peak"] >= took


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_job_whose_models_do_not_fit_is_refused_before_one_is_loaded(
    tmp_path: Path, loads: Path, workers: int
) -> None:
    free = free_bytes()
    assert free is not None
    executor, settings = opened(tmp_path, Need(free, free), workers)
    try:
        with pytest.raises(ResourceError, match=r"^resources"):
            executor.start(settings)
    finally:
        executor.close()
    assert not loads.exists()


@pytest.mark.ray
@pytest.mark.slow
def test_models_whose_loading_takes_much_are_loaded_one_after_the_other(tmp_path: Path, loads: Path) -> None:
    free = free_bytes()
    assert free is not None
    executor, settings = opened(tmp_path, Need(1000, int(0.6 * free)), 2, seconds=0.5)
    try:
        executor.start(settings)
    finally:
        executor.close()
    spans = sorted(tuple(map(float, line.split())) for line in loads.read_text().splitlines())
    assert len(spans) == 2
    assert spans[0][1] <= spans[1][0], "the second began before the first was done"


@pytest.mark.ray
@pytest.mark.slow
def test_models_that_fit_are_loaded_side_by_side(tmp_path: Path, loads: Path) -> None:
    executor, settings = opened(tmp_path, Need(1000, 1000), 2, seconds=1.5)
    try:
        executor.start(settings)
    finally:
        executor.close()
    spans = sorted(tuple(map(float, line.split())) for line in loads.read_text().splitlines())
    assert spans[1][0] < spans[0][1]


MEMORY = {
    "process": 5,
    "peak": 40,
    "steps": {
        "small": {"process": 10, "device": 0},
        "big": {"process": 20, "device": 7},
        "rules": {"process": 0, "device": 0},
    },
}


@pytest.mark.parametrize(
    ("steps", "need"),
    [
        (None, Need(35, 40, 7)),
        (["small", "rules"], Need(15, 40)),
        (["big"], Need(25, 40, 7)),
        ([], Need(5, 40)),
    ],
)
def test_a_process_needs_what_the_models_that_it_holds_took(steps: list[str] | None, need: Need) -> None:
    assert Need.of(MEMORY, steps) == need


def test_the_need_of_a_job_that_was_not_measured_is_not_known() -> None:
    assert Need.of(None) is None


def test_workers_of_several_kinds_share_a_machine() -> None:
    light, heavy = asking(Need(GB, GB), rooms(2, 10)), asking(Need(6 * GB, 6 * GB), rooms(1, 10), "big.workers")
    assert admit([*light, *heavy]) == {"a": 3}
    with pytest.raises(ResourceError) as raised:
        admit([*light, *light, *heavy])
    assert str(raised.value) == (
        "resources.workers and big.workers: on host-a need 4 workers (resources.workers) 1.0 GB each and 1 worker (big.workers) 6.0 GB "
        "each, as the first load of the model was measured; 5 workers still to load it need 10.0 GB, and 9.5 GB can be used: set fewer, "
        "free some, or take a smaller model or precision"
    )


def test_several_kinds_load_as_many_at_a_time_as_the_greatest_peak_leaves_room_for() -> None:
    light, heavy = asking(Need(GB, GB), rooms(2, 10)), asking(Need(2 * GB, 5 * GB), rooms(1, 10), "big.workers")
    assert admit([*light, *heavy]) == {"a": 1}


def test_several_kinds_share_a_gpu() -> None:
    more = {"device": "GPU-1", "device_free": 79 * GB}
    small, big = (
        asking(Need(GB, GB, 20 * GB), rooms(1, 99, **more)),
        asking(Need(GB, GB, 50 * GB), rooms(1, 99, **more), "big.workers"),
    )
    assert admit([*small, *big]) == {"a": 2}
    with pytest.raises(
        ResourceError, match=r"on a GPU of host-a need 2 workers .* 20\.0 GB each and 1 worker .* 50\.0 GB each"
    ):
        admit([*small, *small, *big])
