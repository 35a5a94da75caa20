from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchinfer.executors.inline import InlineExecutor
from batchinfer.executors.protocol import Executor
from batchinfer.testing.executors import ExecutorContract, ProcessContract
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
