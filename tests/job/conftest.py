"""A good job file, and how a test reads a changed one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batchinfer.errors import JobFileError, Problem
from batchinfer.job.load import load_text
from batchinfer.job.spec import JobSpec

GOOD = """\
version: 1
name: reviews
input:
  path: in/
  key: id
model:
  engine: transformers
  uri: hf:org/model@main
  task: embedding
  inputs: {text: text}
  outputs: {embedding: embedding}
output:
  path: out/
"""


@pytest.fixture
def good() -> Callable[..., str]:
    """The good file with texts in it replaced, each once: `good(("key: id", "key: 5"), …)`."""

    def change(*edits: tuple[str, str]) -> str:
        text = GOOD
        for old, new in edits:
            assert old in text
            text = text.replace(old, new, 1)
        return text

    return change


@pytest.fixture
def read() -> Callable[..., JobSpec]:
    """Loads a text in the folder /jobs, with `--set` values, `--param` values and an environment."""

    def load(text: str, *set_values: str, params: dict[str, str] | None = None, **environ: str) -> JobSpec:
        return load_text(text, "job.yaml", "/jobs", params or {}, set_values, environ)

    return load


@pytest.fixture
def problems(read: Callable[..., JobSpec]) -> Callable[..., list[Problem]]:
    """The problems of a text that doesn't load."""

    def refuse(*args: str, **kwargs: object) -> list[Problem]:
        with pytest.raises(JobFileError) as refusal:
            read(*args, **kwargs)
        return refusal.value.problems

    return refuse


@pytest.fixture
def problem(problems: Callable[..., list[Problem]]) -> Callable[..., Problem]:
    """The one problem of a text that doesn't load."""

    def only(*args: str, **kwargs: object) -> Problem:
        found = problems(*args, **kwargs)
        assert len(found) == 1, found
        return found[0]

    return only
