"""The two streams: stdout carries the result and nothing else, stderr everything for people to watch."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
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


def tell(text: str) -> None:
    """Print a line for people on stderr."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


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
