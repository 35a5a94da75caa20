"""A job whose input has changed since, brought up to it by a generation of its own (`run.inputs_changed: extend`)."""

from __future__ import annotations

import logging
from collections.abc import Collection

import pyarrow as pa

from batchinfer.errors import FingerprintError, LockedError
from batchinfer.ledger import generations, manifests, parts, settings
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.manifests import Manifest
from batchinfer.plan.extension import extension, files_of, told
from batchinfer.plan.fingerprint import with_files
from batchinfer.plan.generation import Generation
from batchinfer.plan.plan import Plan
from batchinfer.run.retrying import refuse_other_columns
from batchinfer.storage import paths
from batchinfer.storage.store import Store

log = logging.getLogger(__name__)


def is_needed(store: Store, job: Job, plan: Plan) -> bool:
    """Whether the plan is of this job over other input files, or over these where some were passed over, and is to extend it."""
    if plan.spec.run.inputs_changed != "extend":
        return False
    marks = generations.marks(store, job.paths, job.fingerprint)
    if any(mark.digest == plan.fingerprint.digest for mark in marks):
        return bool(given_up(manifests.latest(store, job.paths)))
    return any(with_files(mark, plan.files).digest == plan.fingerprint.digest for mark in marks)


def given_up(manifest: Manifest | None) -> set[int]:
    """Shards of rows that nothing is known of, as they were passed over; a retry's that were leave their rows dead."""
    parts = () if manifest is None else manifest.parts
    return {p.shard for p in parts if p.counts.not_attempted and not p.retries}


def may_go_on(store: Store, job: Job, interrupted: Generation, plan: Plan) -> bool:
    """Whether a generation that was interrupted is to be ended first, and the plan to extend it then. Call it as the job's runner.

    Shards of files that have changed since are decided by parts without rows: the extension replaces them.

    Raises FingerprintError where not even the columns of a part are known yet.
    """
    same = with_files(interrupted.fingerprint, plan.files).digest == plan.fingerprint.digest
    if not same or not is_needed(store, job, plan):
        return False
    now = {f.path: f for f in plan.files}
    changed = {f.path for f in interrupted.files if now.get(f.path) != f}
    if changed:
        _pass_over(store, job, interrupted, changed, plan)
    return True


def _pass_over(store: Store, job: Job, interrupted: Generation, changed: Collection[str], plan: Plan) -> None:
    pinned = settings.standing(store, job, interrupted)
    if pinned is None:
        raise FingerprintError(
            f"{store.root}: a {interrupted.kind} of this job was interrupted before it predicted anything, and {min(changed)}, which it reads, "
            "was rewritten or removed since: begin anew with --restart"
        )
    refuse_other_columns(store, job, plan, generations.every(store, job.paths))
    schema = pa.schema([*(plan.reading.schema.field(name) for name in plan.reading.carry), *pinned.outputs])
    store.delete(
        paths.SUCCESS
    )  # its runner may have died before it did so, and parts are to come that no manifest lists
    decided = parts.list_shards(store, job.paths)
    for shard in interrupted.shards:
        if shard.number not in decided and any(r.file.path in changed for r in shard.ranges):
            parts.give_up(store, job.paths, shard, schema, plan.spec.output.compression)


def begin(store: Store, job: Job, plan: Plan) -> tuple[Generation, str]:
    """Record the extension, and say what it does. Call it as the job's runner, with no generation open.

    Raises InputError and FingerprintError as `plan.extension` and `retrying.refuse_other_columns` do, and LockedError where another
    generation is begun at the same moment.
    """
    known, before = generations.every(store, job.paths), manifests.latest(store, job.paths)
    if generations.is_open(known[-1], before):  # begun since we looked last: no extension builds on what hasn't ended
        raise LockedError(f"{store.root}: another runner has begun on this output at the same moment; run again")
    refuse_other_columns(store, job, plan, known)
    wanted = extension(plan, known, plan.spec.run.on_removed, given_up(before))
    generation = generations.begin(store, job.paths, wanted)
    if generation.kind != "extension" or generation.fingerprint.digest != plan.fingerprint.digest:
        raise LockedError(f"{store.root}: another runner has begun on this output at the same moment; run again")
    said = told(generation, files_of(known))
    log.info("%s: the input has changed since: %s", store.root, said)
    return generation, said
