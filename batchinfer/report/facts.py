"""What an output says of a job after a run: its dead rows by cause, how its predictions are distributed, and what follows from the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchinfer.ledger import dead, records
from batchinfer.ledger.parts import Part
from batchinfer.plan.generation import Generation
from batchinfer.report.advice import advice
from batchinfer.report.error_groups import group
from batchinfer.report.profile import profile
from batchinfer.report.record import DeadLetters, ErrorGroup, Example, Predictions, RunRecord
from batchinfer.report.standing import standing_parts
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store

MOST_LETTERS = 100_000
"""Dead letters that are looked at, about."""
MOST_GROUPS = 10


def with_facts(store: Store, job: JobPaths, record: RunRecord) -> RunRecord:
    """The record with its dead letters, predictions and advice, as the output has them now.

    Raises OutputError where a part or a file of dead letters is gone or damaged, StorageError or AccessError where the store can't be
    read.
    """
    known, standing = standing_parts(store, job)
    whole = record.model_copy(
        update={
            "dead_letters": _dead_letters(store, standing, known, record.rows.dead),
            "predictions": record.predictions.model_copy(update={"now": _profile(store, standing)}),
        }
    )
    return with_advice(whole)


def with_advice(record: RunRecord) -> RunRecord:
    """The record with what follows from its own figures."""
    return record.model_copy(update={"advice": advice(record)})


def before(store: Store, job: JobPaths) -> Predictions:
    """The predictions that those of the run which begins now are shown beside: of the last run that came to its end, of this job or of
    the one before it on the output.

    Raises OutputError, or ValueError, where its record is damaged or not one of these.
    """
    standing = records.find(store, job.run_results) or _of_former_job(store)
    if standing is None:
        return Predictions()
    known = RunRecord.model_validate(standing)
    if known.state in ("SUCCEEDED", "PARTIAL") and known.predictions.now is not None:
        return Predictions(before=known.predictions.now, before_name=f"the run of {known.ended}")
    return known.predictions.model_copy(update={"now": None})


def _of_former_job(store: Store) -> dict[str, Any] | None:
    """The record of the last run of the job before the output's current one; None where there is none, or it was cleaned away."""
    number = records.newest(store, paths.job_record) - 1
    job = records.find(store, paths.job_record(number)) if number > 0 else None
    return None if job is None else records.find(store, JobPaths(job["job8"]).run_results)


def _profile(store: Store, standing: Sequence[Part]) -> dict[str, Any] | None:
    """Of what counts as the output; None where that has no rows."""
    return profile(store, standing).to_json() if any(p.counts.succeeded for p in standing) else None


def _dead_letters(store: Store, standing: Sequence[Part], known: Sequence[Generation], died: int) -> DeadLetters:
    """The dead letters of as many parts as are to be looked at; those that a retry settled count no more."""
    retries = [p for p in standing if p.retries]
    rows, some = 0, []
    for part in standing:
        if not part.retries and rows < MOST_LETTERS:
            some.append(part)
            rows += part.counts.dead
    letters = dead.counted(dead.letters(store, [*some, *retries], known))
    groups = group(letters.slice(0, MOST_LETTERS).to_pylist())
    shown = [
        ErrorGroup(
            error_class=found.error_class,
            error_type=found.error_type,
            message=found.message,
            rows=found.rows,
            examples=[Example(file=e.source_file, row=e.source_row) for e in found.examples],
        )
        for found in groups[:MOST_GROUPS]
    ]
    return DeadLetters(rows=died, looked_at=min(len(letters), MOST_LETTERS), kinds=len(groups), groups=shown)
