from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchinfer.errors import BatchinferError, JobFileError, MissingExtraError, Problem, StoppedError
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


@pytest.mark.parametrize(
    "error",
    [
        MissingExtraError("s3fs", "s3", "reading s3:// URLs"),
        JobFileError("job.yaml", [Problem("name", "is missing", 3)]),
        StoppedError("interrupted", cancelled=True),
    ],
)
def test_an_error_travels_from_a_worker_to_the_runner_as_it_is(error: BatchinferError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
    assert arrived.exit_code == error.exit_code
