"""Jobs of several steps of which some have pools of their own: what comes of them is what one process gives."""

from __future__ import annotations

import subprocess
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

MODELS = '''
import os, signal, time


class Model:
    """Adds to x, after noting who has loaded it; of some rows it dies, raises or hangs."""

    def __init__(self, name, plus, log, delay=0.0):
        self.name, self.plus, self.delay = name, plus, delay
        with open(log, "a") as file:
            file.write(f"{name} {os.getpid()}\\n")

    def __call__(self, batch):
        time.sleep(self.delay)
        for value in batch["x"]:
            if value.startswith(f"{self.name} dies"):
                os.kill(os.getpid(), signal.SIGSEGV)
                time.sleep(60)
            if value.startswith(f"{self.name} hangs"):
                time.sleep(3600)
            if value.startswith(f"{self.name} raises"):
                raise ValueError("a bad row")
        return {"y": [f"{value}{self.plus}" for value in batch["x"]]}
'''
ROWS = 6000


@pytest.fixture(name="workplace")
def _workplace(tmp_path: Path) -> Workplace:
    place = Workplace(tmp_path)
    (tmp_path / "code" / "steps.py").write_text(MODELS)
    return place


def model(workplace: Workplace, name: str, **more: Any) -> dict[str, Any]:
    delay = more.pop("delay", 0.0)
    return {
        "name": name,
        "engine": "python",
        "uri": "steps:Model",
        "inputs": {"x": "x"},
        "outputs": {"y": {"column": name, "type": "string"}},
        "options": {"name": name, "plus": name[0], "log": str(workplace.log), "delay": delay},
        **more,
    }


def sections(workplace: Workplace, *, pools: bool, delay: float = 0.0, **more: Any) -> dict[str, Any]:
    """A light model, rules, a heavy one for one row in three, and a third for what that gave: the latter two with pools."""
    pool = {"workers": 1, "cpus": 1} if pools else {}
    steps = [
        model(workplace, "light"),
        {"name": "rules", "rules": {"third": "id % 3 = 0"}},
        model(workplace, "heavy", inputs={"x": "light"}, when="third", delay=delay, **pool),
        model(workplace, "last", inputs={"x": "heavy"}, when="heavy IS NOT NULL", **pool),
    ]
    resources = {"executor": "auto", "workers": 2, "cpus": 1} if pools else {"executor": "inline"}
    return {
        "steps": steps,
        "resources": resources,
        "batching": {"rows": 32},
        "errors": {"threshold": -1},
        "checkpoint": {"interval": 0.2},
        "output": {"path": str(workplace.folder / "output"), "columns": ["light", "heavy", "last"]},
        **more,
    }


def write(workplace: Workplace, bad: dict[int, str] | None = None) -> None:
    (workplace.folder / "input").mkdir(exist_ok=True)
    x = [(bad or {}).get(n, str(n)) for n in range(ROWS)]
    pq.write_table(pa.table({"id": range(ROWS), "x": x}), workplace.folder / "input/a.parquet", row_group_size=1000)


def inline(workplace: Workplace) -> list[str]:
    """The digests of the parts after a run in one process."""
    fields = sections(workplace, pools=False)
    fields["output"]["path"] = str(workplace.folder / "reference")
    assert workplace.run(**fields).exit_code in (0, 3)
    workplace.log.unlink()
    return workplace.digests("reference")


def loads(workplace: Workplace) -> list[tuple[str, int]]:
    lines = workplace.log.read_text().splitlines() if workplace.log.exists() else []
    return [(name, int(pid)) for name, pid in (line.split() for line in lines)]


def test_what_workers_and_pools_get_of_the_machine(workplace: Workplace) -> None:
    write(workplace)
    fields = sections(workplace, pools=True)
    fields["steps"][2] |= {"workers": [1, 2], "gpus": 1}
    fields["resources"] |= {"gpus": 0.25}
    allotment = allot(Job(**workplace.fields(**fields)).spec)
    assert (allotment.executor, allotment.workers, allotment.threads, allotment.gpus) == ("ray", 2, 1, 0.25)
    assert {name: (p.least, p.most, p.threads, p.gpus) for name, p in allotment.pools.items()} == {
        "heavy": (1, 2, 1, 1),
        "last": (1, 1, 1, None),
    }


def test_gpus_of_workers_that_hold_no_model_are_refused(workplace: Workplace) -> None:
    write(workplace)
    fields = sections(workplace, pools=True)
    fields["steps"][0] |= {"workers": 1}
    fields["resources"] |= {"gpus": 1}
    with pytest.raises(JobFileError, match=r"resources\.gpus: is for workers that hold a model"):
        Job(**workplace.fields(**fields))


@pytest.mark.ray
@pytest.mark.slow
def test_files_are_those_of_one_process_bad_rows_too(workplace: Workplace) -> None:
    write(workplace, {7: "light raises", 3000: "heavy raises", 4002: "last raises"})
    digests = inline(workplace)
    run = workplace.run(**sections(workplace, pools=True))
    assert run.counts.succeeded + run.counts.dead == ROWS
    assert workplace.digests() == digests
    assert {d["key"]: d["step"] for d in workplace.dead()} == {"7": "light", "3000": "heavy", "4002": "last"}
    held = [name for name, _ in loads(workplace)]
    assert (held.count("heavy"), held.count("last")) == (2, 1) or (held.count("heavy"), held.count("last")) == (1, 2)
    assert held.count("light") == 3, "each worker holds it, and it was measured beside the others"
    assert {name for name, pool in run.record["pools"].items() if pool["batches"]} == {"heavy", "last"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["light", "heavy"])
def test_a_row_that_kills_is_one_dead_letter_of_its_step(workplace: Workplace, name: str) -> None:
    write(workplace, {3000: f"{name} dies"})
    events: list[Event] = []
    run = workplace.run(events=events, **sections(workplace, pools=True))
    assert (run.counts.succeeded, run.counts.dead) == (ROWS - 1, 1)
    (letter,) = workplace.dead()
    assert (letter["key"], letter["step"]) == ("3000", name)
    assert (letter["error_class"], letter["exit_signal"]) == ("process_death", "SIGSEGV")
    assert any(isinstance(e, Retried) and e.quarantined for e in events)


@pytest.mark.ray
@pytest.mark.slow
def test_a_row_that_hangs_in_a_pool_is_one_dead_letter_of_its_step(workplace: Workplace) -> None:
    write(workplace, {3000: "heavy hangs"})
    events: list[Event] = []
    run = workplace.run(events=events, **sections(workplace, pools=True, retry={"timeout": "2s"}))
    assert (run.counts.succeeded, run.counts.dead) == (ROWS - 1, 1)
    (letter,) = workplace.dead()
    assert (letter["key"], letter["step"], letter["error_class"]) == ("3000", "heavy", "timeout")
    hung = [e.failed.shard for e in events if isinstance(e, Retried) and e.failed.failure is Failure.HUNG]
    assert hung == [1], "the shard of the batch, and no other, is to blame"


def victim(workplace: Workplace, program: subprocess.Popen[str], kind: str) -> psutil.Process:
    """A process of the run: a worker, or the model actor of a pool."""
    children = psutil.Process(program.pid).children(recursive=True)
    workers = [p for p in children if "ray::PreparingActor" in " ".join(p.cmdline())]
    if kind == "worker":
        return workers[0]
    return psutil.Process([pid for name, pid in loads(workplace) if name == kind][-1])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["worker", "heavy", "last"])
def test_every_row_is_there_once_whichever_process_is_killed(workplace: Workplace, kind: str) -> None:
    write(workplace)
    digests = inline(workplace)
    program = workplace.start(**sections(workplace, pools=True, delay=0.02))
    data = workplace.folder / "output/data"
    wait_for(lambda: list(data.glob("*.parquet")), program)
    victim(workplace, program, kind).kill()
    assert program.wait(120) == 0, program.communicate()[1]
    assert workplace.digests() == digests
