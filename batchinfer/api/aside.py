"""A job aside: the same, into a temporary folder that is gone afterwards, so that its own output is neither read nor written."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from batchinfer.errors import BatchinferError, StoppedError
from batchinfer.job.spec import Cache, JobSpec
from batchinfer.run.events import RunResult
from batchinfer.run.stop import StopRequest

_TRIES = 25
_WAIT_SECONDS = 0.2


@contextlib.contextmanager
def temporary(prefix: str) -> Iterator[Path]:
    """A folder that is removed, with all that is in it, however the block ends."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        for _ in range(_TRIES):  # a worker that was killed may have had a file in hand
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(_WAIT_SECONDS)


def aside(spec: JobSpec, folder: Path) -> JobSpec:
    """The job into a folder, to its end whatever rows are dead, every row by the model itself."""
    changes = {
        "output": spec.output.model_copy(update={"path": str(folder), "mode": "error"}),
        "errors": spec.errors.model_copy(update={"threshold": -1, "on_exceed": "finish"}),
        "run": spec.run.model_copy(update={"max_runtime": None, "max_cost": None, "inputs_changed": "error"}),
        "cache": Cache(deduplicate=False),
    }
    return spec.model_copy(update=changes)


def failed(result: RunResult, stop: StopRequest | None) -> BatchinferError:
    """Why a run didn't get through, to be raised; it has the run's exit code."""
    kind = StoppedError if stop else BatchinferError
    error = kind("; ".join(result.errors) or f"the run ended as {result.state}")
    error.exit_code = result.exit_code or 1
    return error
