"""How a command ended, for programs: a line of JSON on stdout, a file, and the termination log of a container."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchinfer.cli.streams import show_json, tell
from batchinfer.errors import RefusedError

TERMINATION_LOG = "BATCHINFER_TERMINATION_LOG"
"""The environment variable that names it; by default it is where Kubernetes has it."""
_MOST = 4096
"""Bytes that Kubernetes reads of it."""


def check_place(path: str | None, option: str) -> None:
    """Refuse a file that can't be written, before anything is run. Raises RefusedError."""
    if path is None:
        return
    folder = Path(path).absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or Path(path).is_dir():
        raise RefusedError(f"{option} {path}: no file can be written there: create the folder, or name another")


def deliver(value: Mapping[str, Any], *, as_json: bool, result_file: str | None) -> None:
    """Tell how a run ended: `value` has `exit_code`, `errors` and, where it got that far, the rest of `run_results.json`."""
    if result_file is not None:
        try:
            _replace(Path(result_file), json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str))
        except OSError as error:  # what was run stands all the same
            tell(f"error: --result-file {result_file}: {error}")
    _terminate(value)
    if as_json:
        show_json(value)


def _replace(path: Path, text: str) -> None:
    """The file as a whole, or as it was: who reads it at the same time sees no half of it."""
    descriptor, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{text}\n")
        Path(name).chmod(0o644)  # others may read what is made for them
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _terminate(value: Mapping[str, Any]) -> None:
    """The line that Kubernetes shows as the reason of a container's end; it is there for a container that has such a file."""
    path = Path(os.environ.get(TERMINATION_LOG, "/dev/termination-log"))
    words = [f"exit code {value['exit_code']}", *([str(value["state"])] if "state" in value else [])]
    line = ": ".join([", ".join(words), *value.get("errors", [])[:1]])
    if path.is_file():
        with contextlib.suppress(OSError):
            path.write_bytes(line.encode()[:_MOST])
