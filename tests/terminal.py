"""The command line called in this process: what it says and its exit code, without the seconds that a start of Python takes.

Tests that are about the process itself (signals, streams that close, what is imported) start the program instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from batchinfer.cli.app import app


def batchinfer(
    *arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`batchinfer …` as called in a folder with further variables; streams are files, so that no bar is drawn."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, pytest.MonkeyPatch.context() as patch:
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        if folder is not None:
            patch.chdir(folder)
        patch.setattr(sys, "argv", ["batchinfer", *arguments])
        with _descriptor(1, out.fileno()), _descriptor(2, err.fileno()), _no_log_handlers(), _streams(patch):
            try:
                code = app(prog_name="batchinfer")
            except SystemExit as e:
                code = e.code
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(["batchinfer", *arguments], code, *texts)


@contextlib.contextmanager
def _descriptor(number: int, target: int) -> Iterator[None]:
    """Let a file descriptor lead elsewhere, also for C code and for what is started."""
    kept = os.dup(number)
    os.dup2(target, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


@contextlib.contextmanager
def _streams(patch: pytest.MonkeyPatch) -> Iterator[None]:
    with open(os.devnull) as nothing, open(1, "w", closefd=False) as out, open(2, "w", closefd=False) as err:
        patch.setattr(sys, "stdin", nothing)
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        yield


@contextlib.contextmanager
def _no_log_handlers() -> Iterator[None]:
    """As in a program that has just been started; pytest's own are back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
