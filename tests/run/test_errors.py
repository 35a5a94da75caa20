from __future__ import annotations

import inspect
import pickle
import re

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
    assert (type(back), str(back), vars(back)) == (kind, str(error), vars(error))
    assert back.exit_code == error.exit_code


def test_every_error_stands_in_the_tree_below_its_parent_with_its_exit_code() -> None:
    drawn, above = {}, [""]
    for line in (errors.__doc__ or "").splitlines():
        if entry := re.match(r"([│├└─ ]*)(\w+Error)\b(?: +exit (\d+))?", line):
            depth, name, code = len(entry[1]) // 4, entry[2], entry[3]
            above = [*above[: depth + 1], name]
            parent = above[depth]
            drawn[name] = parent, int(code) if code else drawn[parent][1]
    kinds = [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, BatchinferError)]
    parents = {k.__name__: "" if k is BatchinferError else k.__bases__[0].__name__ for k in kinds}
    assert drawn == {k.__name__: (parents[k.__name__], k.exit_code) for k in kinds}
