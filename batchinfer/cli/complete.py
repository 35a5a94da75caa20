"""Values for the shell to complete: job files, outputs, parameters, keys to set. In silence: whatever goes wrong completes nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

JOB_FILES = (".yaml", ".yml")
_STATE = "_batchinfer"
"""The folder that an output has, see storage.paths."""
_MOST = 500
"""Entries of a folder that are looked at."""
ASKED = "_BATCHINFER_COMPLETE"
"""The variable by which a shell asks for words, in place of running a verb."""
_OPEN = ("=", ".", "/")
"""A word that ends so goes on."""

Completer = Callable[[typer.Context, str], list[str]]


def _silent(work: Callable[[typer.Context, str], Iterator[str]]) -> Completer:
    """What the work finds; nothing where it fails.

    Behind the only word that is left, bash and zsh put a space, wherefore one that goes on is given in two ways.
    """

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        found: list[str] = []
        with contextlib.suppress(Exception):
            found.extend(word for word in work(ctx, incomplete) if word.startswith(incomplete))
        if len(found) == 1 and found[0].endswith(_OPEN) and os.environ.get(ASKED) != "complete_fish":
            found.append(f"{found[0]}…")
        return found

    return complete


@_silent
def job_files(ctx: typer.Context, incomplete: str) -> Iterator[str]:  # noqa: ARG001 - the signature is Typer's
    """YAML files, and folders on the way to them."""
    return _paths(incomplete, lambda path: path.suffix in JOB_FILES)


@_silent
def outputs(ctx: typer.Context, incomplete: str) -> Iterator[str]:  # noqa: ARG001
    """Folders that a job wrote, job files, and folders on the way to them."""
    return _paths(incomplete, lambda path: path.suffix in JOB_FILES or (path / _STATE).is_dir())


@_silent
def parameters(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """`NAME=` of each parameter that the job file declares, and its default behind it once the name stands there."""
    from batchinfer.job import words

    for name, default in words.parameters(_job(ctx)).items():
        if not incomplete.startswith(f"{name}="):
            yield f"{name}="
        elif default is not None and "$" not in str(default):
            yield f"{name}={default}"


@_silent
def settings(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Keys of the job file, a level at a time, and the words that a key takes."""
    from batchinfer.job import words

    job: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # the schema's keys are the same without it
        job = _job(ctx)
    yield from words.settings(incomplete, job, lambda: _columns(ctx, job))


def _job(ctx: typer.Context) -> dict[str, Any]:
    from batchinfer.job import words

    return words.read(_job_file(ctx))


def _job_file(ctx: typer.Context) -> str:
    """What the verb is about. An option that waits for its value ends the parsing before arguments are given their names."""
    return str(ctx.params.get("job") or ctx.params.get("output") or ctx.args[0])


def _columns(ctx: typer.Context, job: dict[str, Any]) -> list[str]:
    """Of the first local input file."""
    from batchinfer.data.column_names import column_names

    with contextlib.suppress(Exception):
        path = job["input"]["path"]
        place = Path(_job_file(ctx)).parent / (path[0] if isinstance(path, list) else path)
        files = (
            place.rglob("*.parquet")
            if place.is_dir()
            else place.parent.glob(place.name)  # itself, or what a glob in its name stands for
        )
        return column_names(next(iter(files)))
    return []


def _paths(incomplete: str, wanted: Callable[[Path], bool]) -> Iterator[str]:
    """Paths that begin so and are wanted, and folders, which end with `/`; a folder that is all there is gives what it holds."""
    folder, slash, name = incomplete.rpartition("/")
    found = list(_below(f"{folder}{slash}", name, wanted))
    for _ in range(20):
        if len(found) != 1 or not found[0].endswith("/"):
            break
        found = list(_below(found[0], "", wanted))
    yield from found


def _below(folder: str, beginning: str, wanted: Callable[[Path], bool]) -> Iterator[str]:
    entries = itertools.islice(Path(folder or ".").expanduser().iterdir(), _MOST)
    for entry in sorted(entries):
        if not entry.name.startswith(beginning) or (entry.name.startswith((".", "_")) and not beginning):
            continue
        if wanted(entry):
            yield f"{folder}{entry.name}"
        elif entry.is_dir():
            yield f"{folder}{entry.name}/"
