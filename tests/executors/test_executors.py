from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from batchinfer.executors.actor import Actor
from batchinfer.executors.inline import InlineExecutor
from batchinfer.executors.protocol import Executor
from batchinfer.testing.executors import ExecutorContract, ProcessContract
from batchinfer.worker import logs, process
from batchinfer.worker.context import Context


class TestInline(ExecutorContract):
    def open(self, context: Context) -> Executor:
        return InlineExecutor(context)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One local Ray for all tests that want one: starting it takes seconds."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
class TestRay(ProcessContract):
    def open(self, context: Context) -> Executor:
        from batchinfer.executors.ray import RayExecutor

        return RayExecutor(context, workers=1, address=None)


def test_a_worker_waits_until_the_process_that_it_replaces_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where whoever was to end that process has not done so."""
    contract, loads = TestInline(), tmp_path / "loads"
    plan = contract.plan(tmp_path, list(range(10)), loads=str(loads))
    monkeypatch.setattr(process, "settle", lambda threads, own: None)  # these are for a process of the worker's own
    monkeypatch.setattr(logs, "begin", lambda secrets: None)
    former = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        loads.write_text(f"{former.pid}\n")
        state, this = process.process_state(former.pid), process.this_process()
        assert state is not None
        assert this is not None
        known = replace(this, pid=former.pid, started=state[1])
        Actor(contract.context(plan), 0).measure(plan.shards, known, False)
    finally:
        former.kill()
        former.wait()
    assert loads.read_text().splitlines()[1] == str(os.getpid()), "the model was loaded beside the former process"


def test_an_inline_run_imports_neither_ray_nor_typer_nor_rich(tmp_path: Path) -> None:
    contract = TestInline()
    plan = contract.plan(tmp_path, list(range(20)))
    code = (
        "import sys\nfrom batchinfer import Job\nfrom batchinfer.job.spec import JobSpec\n"
        "run = Job.from_spec(JobSpec.model_validate_json(sys.argv[1])).run()\n"
        "assert run.exit_code == 0\n"
        "print([m for m in ('ray', 'typer', 'rich', 'polars', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, plan.spec.model_dump_json()], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
