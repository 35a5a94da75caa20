from __future__ import annotations

import inspect
import pickle

import pytest

from batchinfer import errors
from batchinfer.errors import BatchinferError, JobFileError, MissingExtraError, Problem, StoppedError

MADE = {
    JobFileError: JobFileError("job.yaml", [Problem("model.task", "wrong", 3), Problem("", "worse")]),
    MissingExtraError: MissingExtraError("s3fs", "s3", "reading"),
    StoppedError: StoppedError("enough", cancelled=True),
}


@pytest.mark.parametrize(
    "kind", [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, BatchinferError)]
)
def test_every_error_travels_between_processes_whole(kind: type[BatchinferError]) -> None:
    error = MADE.get(kind) or kind("what, where, what to do")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.exit_code) == (kind, str(error), error.exit_code)


def test_every_error_stands_in_the_tree_with_its_exit_code() -> None:
    tree = errors.__doc__ or ""
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, BatchinferError):
            assert name in tree
