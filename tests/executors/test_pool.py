"""A step with a pool of its own: what is prepared in one process and predicted in another is what one process gives."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import Job
from batchinfer.errors import JobFileError
from batchinfer.run.events import Event, Retried
from batchinfer.run.resources import allot
from batchinfer.worker.context import Failure
from tests.run.workplace import Workplace, wait_for

MODEL = '''
import os, signal, time


class Model:
    """Twice x, after noting who has loaded it; of some rows it dies, raises or hangs."""

    def __init__(self, log, delay=0.0):
        self.delay = delay
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\\n")

    def __call__(self, batch):
        time.sleep(self.delay)
        if -1 in batch["x"]:
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)
        if -3 in batch["x"]:
            time.sleep(3600)
        if -2 in batch["x"]:
            raise ValueError("a bad row")
        return {"y": [2.0 * float(x) for x in batch["x"]]}
'''


@pytest.fixture(name="workplace")
def _workplace(tmp_path: Path) -> Workplace:
    place = Workplace(tmp_path)
    (tmp_path / "code" / "apart.py").write_text(MODEL)
    return place


def sections(workplace: Workplace, *, delay: float = 0.0, **more: Any) -> dict[str, Any]:
    outputs = {"y": {"column": "y", "type": "float64"}}
    options = {"log": str(workplace.log), "delay": delay}
    model = {"uri": "apart:Model", "outputs": outputs, "options": options, **more.pop("model", {})}
    return {
        "model": model,
        "batching": {"rows": 32},
        "errors": {"threshold": -1},
        "checkpoint": {"interval": 0.2},
        **more,
    }


def apart(workplace: Workplace, workers: int = 2, **more: Any) -> dict[str, Any]:
    resources = {"executor": "auto", "workers": workers, "cpus": 1}
    return sections(workplace, model={"workers": 1, "cpus": 1}, resources=resources, **more)


def loads(workplace: Workplace) -> list[int]:
    return [int(line) for line in workplace.log.read_text().split()] if workplace.log.exists() else []


def inline(workplace: Workplace, rows: int, poison: dict[int, int]) -> list[str]:
    """Write the rows, and give the digests of their parts after a run in one process; nothing where that would die of one."""
    (workplace.folder / "input").mkdir(exist_ok=True)
    table = pa.table({"id": range(rows), "x": [poison.get(n, n) for n in range(rows)]})
    pq.write_table(table, workplace.folder / "input/a.parquet", row_group_size=1000)
    if {-1, -3} & set(poison.values()):
        return []
    run = workplace.run(**sections(workplace, output={"path": str(workplace.folder / "reference")}))
    assert run.counts.succeeded + run.counts.dead == rows
    workplace.log.unlink()
    return workplace.digests("reference")


def test_a_step_with_a_pool_needs_ray_and_says_so(workplace: Workplace) -> None:
    workplace.write(10)
    with pytest.raises(JobFileError, match=r"model\.workers: gives the step a pool of its own, which needs Ray"):
        Job(**workplace.fields(**sections(workplace, model={"workers": 2})))
    with pytest.raises(JobFileError, match="smaller number first"):
        Job(**workplace.fields(**sections(workplace, model={"workers": [4, 1]}, resources={"executor": "ray"})))


def test_workers_of_a_step_with_a_pool_hold_no_device_and_its_actors_have_theirs(workplace: Workplace) -> None:
    workplace.write(10)
    model = {"workers": [1, 3], "cpus": 2, "gpus": 0.5}
    spec = Job(
        **workplace.fields(**sections(workplace, model=model, resources={"executor": "auto", "workers": 5}))
    ).spec
    allotment = allot(spec)
    assert (allotment.executor, allotment.workers, allotment.threads, allotment.gpus) == ("ray", 5, 1, 0)
    pool = allotment.pools["model"]
    assert (pool.least, pool.most, pool.threads, pool.gpus) == (1, 3, 2, 0.5)


def test_where_a_model_runs_is_not_in_the_fingerprint(workplace: Workplace) -> None:
    workplace.write(10)
    fused = Job(**workplace.fields(**sections(workplace))).plan().fingerprint
    assert Job(**workplace.fields(**apart(workplace))).plan().fingerprint.digest == fused.digest


@pytest.mark.ray
@pytest.mark.slow
def test_files_are_those_of_one_process_bad_rows_too(workplace: Workplace) -> None:
    digests = inline(workplace, 5000, {7: -2, 3100: -2})
    run = workplace.run(**apart(workplace))
    assert (run.counts.succeeded, run.counts.dead) == (4998, 2)
    assert workplace.digests() == digests
    assert {(d["error_type"], d["attempts"]) for d in workplace.dead()} == {("ValueError", 2)}
    assert len(loads(workplace)) == 1
    pool = run.record["pools"]["model"]
    assert pool["batches"] >= 5000 / 32
    assert pool["busy"] <= run.record["usage"]["seconds"]["infer"] + 0.01 < pool["busy"] + 1
    assert pool["idle"] > 0


@pytest.mark.ray
@pytest.mark.slow
def test_a_row_that_kills_a_model_actor_is_one_dead_letter(workplace: Workplace) -> None:
    inline(workplace, 5000, {2500: -1})
    events: list[Event] = []
    run = workplace.run(events=events, **apart(workplace))
    assert (run.counts.succeeded, run.counts.dead) == (4999, 1)
    (letter,) = workplace.dead()
    assert (letter["key"], letter["error_class"], letter["exit_signal"]) == ("2500", "process_death", "SIGSEGV")
    assert any(isinstance(e, Retried) and e.quarantined for e in events)


@pytest.mark.ray
@pytest.mark.slow
def test_a_row_that_hangs_in_a_model_actor_is_one_dead_letter(workplace: Workplace) -> None:
    inline(workplace, 5000, {2500: -3})
    events: list[Event] = []
    run = workplace.run(events=events, **apart(workplace, retry={"timeout": "2s"}))
    assert (run.counts.succeeded, run.counts.dead) == (4999, 1)
    (letter,) = workplace.dead()
    assert (letter["key"], letter["error_class"]) == ("2500", "timeout")
    hung = [e.failed.shard for e in events if isinstance(e, Retried) and e.failed.failure is Failure.HUNG]
    assert hung == [1], "the shard of the batch, and no other, is to blame"


def killed(workplace: Workplace, victim: Callable[[psutil.Process], list[psutil.Process]]) -> subprocess.Popen[str]:
    """A run in another process, of which one process was killed in mid-run."""
    program = workplace.start(**apart(workplace, delay=0.02))
    data = workplace.folder / "output/data"
    wait_for(lambda: list(data.glob("*.parquet")), program)
    (found,) = victim(psutil.Process(program.pid))
    found.kill()
    return program


def preparing(program: psutil.Process) -> list[psutil.Process]:
    """One of the workers that prepare."""
    found = [p for p in program.children(recursive=True) if "ray::PreparingActor" in " ".join(p.cmdline())]
    assert len(found) == 2
    return found[:1]


@pytest.mark.ray
@pytest.mark.slow
def test_killing_a_worker_that_prepares_loads_no_model_again(workplace: Workplace) -> None:
    digests = inline(workplace, 12_000, {7: -2})
    program = killed(workplace, preparing)
    assert program.wait(120) == 0
    assert workplace.digests() == digests
    assert len(loads(workplace)) == 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_model_actor_that_is_killed_is_replaced_and_every_row_is_there_once(workplace: Workplace) -> None:
    digests = inline(workplace, 12_000, {7: -2})
    program = killed(workplace, lambda _: [psutil.Process(loads(workplace)[0])])
    assert program.wait(120) == 0
    assert workplace.digests() == digests
    assert len(loads(workplace)) == 2


@pytest.mark.ray
@pytest.mark.slow
def test_a_pool_that_never_rests_grows_to_the_most_that_it_may_have(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchinfer.executors.model_pool.SCALE_SECONDS", 1.0)
    digests = inline(workplace, 8000, {})
    asked = apart(workplace, workers=1, delay=0.05)
    asked["model"]["workers"] = [1, 2]
    run = workplace.run(**asked)
    assert run.counts.succeeded == 8000
    assert workplace.digests() == digests
    assert len(loads(workplace)) == 2
