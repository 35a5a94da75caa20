"""The two streams: stdout carries the result and nothing else, stderr everything for people to watch."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any


def show(text: str) -> None:
    """Print a result on stdout. A reader that has gone, such as `head`, is no error."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_stdout()


def show_json(value: Mapping[str, Any]) -> None:
    """Print the result as one compact line, the last on stdout: what libraries print at exit goes to stderr."""
    show(json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str))
    os.dup2(2, 1)


_AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)


def tell(text: str) -> None:
    """Print a line for people on stderr, or for programs: see `lines`."""
    if _AS_JSON.get():
        kind, colon, rest = text.partition(": ")
        known = {"error": "ERROR", "batchinfer": "INFO"}.get(kind) if colon else None
        text = json_line(known or "INFO", "batchinfer.cli", text if known is None else rest)
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


@contextlib.contextmanager
def lines(*, as_json: bool) -> Iterator[None]:
    """In the block each line on stderr is a JSON object, where that is asked for: `time`, `level`, `logger`, `message`."""
    token = _AS_JSON.set(as_json)
    try:
        yield
    finally:
        _AS_JSON.reset(token)


def are_json() -> bool:
    """Whether lines on stderr are JSON objects."""
    return _AS_JSON.get()


def json_line(level: str, logger: str, message: str) -> str:
    """A line of a log as a JSON object."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "logger": logger, "message": message}, ensure_ascii=False)


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send to stderr what models and libraries print while the block runs, from Python or from C."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _let_go_of_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
