"""Which job an output belongs to: the highest-numbered record under jobs/."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchinfer.errors import FingerprintError, OutputError
from batchinfer.ledger import generations, records
from batchinfer.plan.fingerprint import Fingerprint, differences
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store


@dataclass(frozen=True)
class Job:
    """A job as its record says it."""

    number: int
    paths: JobPaths
    name: str
    fingerprint: Fingerprint
    written: Mapping[str, Any] | None = None
    """The job file as it was written and what was given with it; None where it holds a secret, which is never recorded."""


def probe(store: Store) -> None:
    """Make sure that the store keeps the promise on which everything rests: a second create of one name fails.

    Raises OutputError where it doesn't.
    """
    path = f"{paths.PROBES}/{secrets.token_hex(8)}"
    try:
        first, second = store.create(path, b"first"), store.create(path, b"second")
    finally:
        store.delete(path)
    if not first or second:
        raise OutputError(
            f"{store.root}: this store ignores conditional creates (If-None-Match), so two runners could overwrite each other's "
            "results; use a store that supports them, or, where you see to it that no second run writes there, --single-writer"
        )


def current(store: Store) -> Job | None:
    """The job that the output belongs to; None for an output without one. Raises OutputError where its record is damaged."""
    number = records.newest(store, paths.job_record)
    if not number:
        return None
    path = paths.job_record(number)
    record = records.read(store, path)
    try:
        mark = Fingerprint.from_json(record["fingerprint"])
        return Job(number, JobPaths(record["job8"]), record["name"], mark, record.get("written"))
    except (KeyError, TypeError) as e:
        raise OutputError(
            f"{store.root}/{path}: not the record of a job ({e!r}); was it edited? Put it back as it was, or give another output.path"
        ) from e


def find_or_create(
    store: Store,
    name: str,
    fingerprint: Fingerprint,
    started_by: Mapping[str, Any],
    *,
    fresh: bool,
    overwrite: bool,
    written: Mapping[str, Any] | None = None,
) -> Job:
    """The job of this output, which must have been run with this fingerprint; a new one where there is none, or where a fresh start is asked for.

    Args:
        store: the output.
        name: the job's name, for people.
        fingerprint: what went into the job.
        started_by: who creates it, recorded.
        fresh: start a new job even where one of equal fingerprint stands (`--restart`).
        overwrite: start a new job where one of another fingerprint stands (`output.mode: overwrite`).
        written: see `Job.written`.

    Raises:
        OutputError: the directory holds files and no job of batchinfer; or data/, which a new job is to clear, holds files of
            others.
        FingerprintError: the job there differs, with what differs in the message.

    """
    job = current(store)
    if job is None:
        _refuse_foreign(store)
        number = 1
    elif fresh:
        number = job.number + 1
    elif generations.accepts(store, job.paths, job.fingerprint, fingerprint):
        return job
    elif overwrite:
        number = job.number + 1
    else:
        lines = differences(generations.marks(store, job.paths, job.fingerprint)[0], fingerprint)
        changes = "\n".join(f"  {line}" for line in lines)
        only_files = all(line.startswith("input.files.") for line in lines)
        advice = "Predict what is new or rewritten alone: run.inputs_changed: extend. " if only_files else ""
        raise FingerprintError(
            f"{store.root} holds the output of a job that differs from this one in:\n{changes}\n"
            f"{advice}Give another output.path, undo the change, start afresh with --restart (removes the former output), or, where dead "
            "rows are what the change is for, predict them alone: batchinfer retry."
        )
    if number > 1:
        refuse_foreign_data(store)
        store.delete(paths.SUCCESS)  # before the record: it must never vouch for a job that is being replaced
    record = {
        "job8": secrets.token_hex(4),
        "name": name,
        "fingerprint": fingerprint.to_json(),
        "started_by": started_by,
        "written": written,
    }
    records.create(store, paths.job_record(number), record)
    # Whoever created the record of this number, the highest one counts from now on, for all alike.
    standing = current(store)
    if standing is None or standing.fingerprint.digest != fingerprint.digest:
        raise FingerprintError(
            f"{store.root}: another job was started on this output at the same moment; run again to see which"
        )
    return standing


def remove_former(store: Store, job: Job) -> None:
    """Remove what jobs before `job` left where readers look: _SUCCESS first, then their parts and dead letters."""
    if job.number == 1:
        return
    stale = _published(store, former(store, job))
    if stale:
        store.delete(paths.SUCCESS)
    for path in stale:
        store.delete(path)


def withdraw(store: Store, job: Job) -> None:
    """Remove what a runner of `job` put where readers look, after the job was replaced: its parts and dead letters."""
    for path in _published(store, {job.paths.job8}):
        store.delete(path)


def former(store: Store, job: Job) -> set[str]:
    """The job8 of each job before `job` on this output."""
    return _job8s(store, before=job.number)


def _job8s(store: Store, before: int) -> set[str]:
    return {records.read(store, paths.job_record(n))["job8"] for n in range(1, before)}


def _published(store: Store, job8s: set[str]) -> list[str]:
    """What these jobs put where readers look: parts and dead letters."""
    entries = [e for folder in (paths.DATA, paths.DEAD_LETTERS) for e in store.list(folder)]
    return [e.path for e in entries if paths.job8_of(e.path) in job8s]


def refuse_foreign_data(store: Store) -> None:
    """A reader of data/ takes in whatever lies there: no job begins beside what it may not remove, and none is called a success.

    Raises OutputError where data/ holds a file that no job here wrote.
    """
    known = _job8s(store, before=records.newest(store, paths.job_record) + 1)
    for entry in store.list(paths.DATA):
        ours = entry.path == paths.SUCCESS or paths.job8_of(entry.path) in known
        if not ours and not entry.path.rpartition("/")[2].startswith("."):
            raise OutputError(
                f"{store.root}/{entry.path}: no job of batchinfer wrote this file, and readers of {paths.DATA}/ would take it "
                "for a result: move it away and run again, or give another output.path"
            )


def _refuse_foreign(store: Store) -> None:
    foreign = [e.path for e in store.list() if not e.path.startswith(f"{paths.STATE}/")]
    if foreign:
        raise OutputError(
            f"{store.root} is not empty and was not written by batchinfer (it holds {foreign[0]}"
            f"{f' and {len(foreign) - 1} more' if len(foreign) > 1 else ''}): give an empty or new output.path"
        )
