"""How a command ends: its exit code, and its error on stderr."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, ParamSpec

import typer

from batchinfer.cli.outcome import deliver
from batchinfer.cli.streams import lines, show_json, tell
from batchinfer.errors import BatchinferError, JobFileError, RefusedError

P = ParamSpec("P")

CANCELLED = 130
UNEXPECTED = 1


def guarded(command: Callable[P, int]) -> Callable[P, None]:
    """A command that ends the program with the exit code that it returns, or that its error has."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with lines(as_json=kwargs.get("log_format") == "json"):
            code, errors = outcome(lambda: command(*args, **kwargs))
            for error in errors:
                tell(f"error: {error}")
        if errors:
            told, file = {"exit_code": code, "errors": errors}, kwargs.get("result_file")
            if "result_file" in kwargs:
                deliver(told, as_json=bool(kwargs.get("as_json")), result_file=None if file is None else str(file))
            elif kwargs.get("as_json"):
                show_json(told)
        raise typer.Exit(code)

    return run


def outcome(work: Callable[[], int]) -> tuple[int, list[str]]:
    """The exit code that the work returns, or that its error has, and what that says."""
    try:
        return work(), []
    except BatchinferError as e:
        return e.exit_code, _lines(e)
    except KeyboardInterrupt:
        return CANCELLED, ["interrupted"]
    except Exception as e:  # noqa: BLE001 - the program's last line of defence
        tell(traceback.format_exc().rstrip())
        return UNEXPECTED, [f"unexpected {type(e).__name__}: {e} (traceback above; please report it)"]


def _lines(error: BatchinferError) -> list[str]:
    return str(error).split("\n") if isinstance(error, JobFileError) else [str(error)]


def assignments(given: list[str] | None) -> dict[str, str]:
    """`--param name=value`, each. Raises RefusedError where the = is missing."""
    pairs = [text.partition("=") for text in given or []]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise RefusedError(f"--param {name}: write name=value")
    return {name: value for name, _, value in pairs}


def leave(code: object) -> NoReturn:
    """End the process with the code of a SystemExit, past Python's own end.

    A library's thread that reads ahead may be on its way back into Python just then, which ends the process with SIGABRT in place of
    the code: seen with Arrow's, after a job that stopped early, and with those of a Ray that lost its cluster.
    """
    logging.shutdown()
    with contextlib.suppress(OSError):  # nobody reads any more
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)
