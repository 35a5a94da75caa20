"""Whatever stands in a job file, only batchinfer's own errors come of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.errors import JobFileError
from batchinfer.job.load import load_text

VALID: dict[str, Any] = {
    "version": 1,
    "name": "fuzzed",
    "input": {"path": "in.parquet", "where": "x > 1", "key": "id"},
    "model": {
        "engine": "python",
        "uri": "module:Class",
        "inputs": {"x": "x"},
        "outputs": {"y": {"column": "y", "type": "float32"}},
        "options": {"a": [1, {"b": None}]},
    },
    "batching": {"rows": 32},
    "retry": {"timeout": "5s"},
    "errors": {"threshold": "1%"},
    "storage": {"s3://b/": {"anon": True}},
    "output": {"path": "out"},
}
KEYS = ["version", "name", "input", "path", "where", "key", "model", "steps", "options", "params", "storage", "output"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["auto", "${X}", "${params.a}", "$$", "${", "s3://u:p@b/", "-1", "5s", "1e999", "\x00", "..", "a:B"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


def load_it(text: str) -> None:
    problems = None
    try:
        assert load_text(text, "job.yaml", "/nowhere", environ={"X": "value"}).steps
    except JobFileError as e:
        problems = [str(e), *(p.message for p in e.problems)]
    assert problems is None or (len(problems) > 1 and problems[0].startswith("job.yaml") and all(problems))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.text(alphabet="{}[]:-,&*!|>'\"%@`#\n\t aé0", max_size=200))
def test_any_text(text: str) -> None:
    load_it(text)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_structure(value: Any) -> None:
    load_it(json.dumps(value))


@settings(max_examples=400, deadline=None)
@given(value=VALUES, data=st.data())
def test_a_valid_job_with_one_value_changed(value: Any, data: st.DataObject) -> None:
    job = json.loads(json.dumps(VALID))
    at: Any = job
    while True:
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else list(range(len(at)))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    match data.draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            at[key] = value
        case "remove":
            del at[key]
        case _ if isinstance(at, dict):
            at[data.draw(st.sampled_from(KEYS) | st.text(max_size=8))] = value
        case _:
            at.append(value)
    load_it(json.dumps(job))


def test_the_job_that_is_changed_is_valid() -> None:
    assert load_text(json.dumps(VALID), "job.yaml", "/nowhere").name == "fuzzed"
