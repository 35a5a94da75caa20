"""The end of a generation whose shards are all decided, and the verdict on its job."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from batchinfer.errors import BatchinferError, LockedError
from batchinfer.job.spec import Errors, JobSpec
from batchinfer.ledger import generations, jobs, manifests, parts, records
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Part, account
from batchinfer.measure.settings import Settings
from batchinfer.plan.generation import Generation
from batchinfer.run.events import RunResult, State
from batchinfer.run.policy import verdict
from batchinfer.storage import paths
from batchinfer.storage.store import Store


def judge(store: Store, spec: JobSpec, job: Job, manifest: Manifest) -> RunResult:
    """Judge by the threshold that is asked for now, and tell readers of data/ by `_SUCCESS`.

    Raises:
        LockedError: another job or generation has been begun since.
        OutputError: data/ holds a file of others.

    """
    refuse_superseded(store, job, manifest.generation)
    jobs.remove_former(store, job)  # a runner of a replaced job may have woken up since
    remove_replaced(store, job, manifest)
    code = verdict(manifest.counts.dead, spec.errors.threshold, manifest.counts.planned)
    missing = (
        manifest.counts.not_attempted
    )  # of files that changed while a generation was interrupted: an extension replaces them
    if missing:
        store.delete(paths.SUCCESS)
        errors: tuple[str, ...] = (
            f"{missing} rows of files that have changed since are not predicted yet: run the same command again",
        )
        return RunResult(
            State.PARTIAL, 3, manifest.counts, job.paths, store.root, _settings(store, job, manifest), errors=errors
        )
    if code == 0:
        try:
            jobs.refuse_foreign_data(store)
            manifests.mark_success(store)
            refuse_superseded(store, job, manifest.generation)  # it may have begun between the look and the mark
        except BatchinferError:  # also where the store didn't let us look
            store.delete(paths.SUCCESS)
            raise
    else:
        store.delete(paths.SUCCESS)
    dead = manifest.counts.dead
    said = f"{dead} dead row{'' if dead == 1 else 's'}, more than errors.threshold: {spec.errors.threshold} allows"
    errors = () if code == 0 else (said,)
    state = State.SUCCEEDED if code == 0 else State.PARTIAL
    return RunResult(
        state, code, manifest.counts, job.paths, store.root, _settings(store, job, manifest), errors=errors
    )


def _settings(store: Store, job: Job, manifest: Manifest) -> Settings | None:
    recorded = records.find(store, job.paths.settings_of(manifest.generation))
    return Settings.from_json(recorded) if recorded else None


def remove_replaced(store: Store, job: Job, manifest: Manifest) -> None:
    """Remove parts of shards that an extension has replaced, also one that a late runner has put there again."""
    if not manifest.replaced:
        return
    stale = parts.list_shards(store, job.paths) & set(manifest.replaced)
    if stale:
        store.delete(paths.SUCCESS)
    for number in stale:
        store.delete(job.paths.part(number))


def _withdraw_replaced(store: Store, job: Job) -> None:
    """Remove parts that came after an extension had replaced theirs; `_SUCCESS` is that extension's, and stays."""
    manifest = manifests.latest(store, job.paths)
    if manifest is not None and manifest.replaced:
        for number in parts.list_shards(store, job.paths) & set(manifest.replaced):
            store.delete(job.paths.part(number))


def refuse_superseded(store: Store, job: Job, generation: int) -> None:
    """Raise LockedError where a later job or generation has been begun on this output: what is known here is out of date.

    The parts of a replaced job, and of shards that an extension replaced, are removed: nobody else may look for them before the next
    run does.
    """
    standing = jobs.current(store)
    if standing is None or standing.number != job.number:
        jobs.withdraw(store, job)  # parts that came after the new job's beginning
        raise LockedError(f"{store.root}: another job has been started on this output; this one is over")
    if generations.numbers(store, job.paths)[-1] > generation:
        _withdraw_replaced(store, job)
        raise LockedError(
            f"{store.root}: another retry or extension has been started on this output; run again to see what it came to"
        )


def end(
    store: Store,
    job: Job,
    generation: Generation,
    listed: Iterable[Part],
    own: Iterable[Part],
    errors: Errors,
    ran_with: Settings | None,
) -> Manifest:
    """End a generation whose shards are all decided: its manifest lists those parts that were `listed` before and its `own`."""
    retries = {s.number: s.retries for s in generation.shards}
    standing = [*listed, *(replace(p, retries=retries[p.shard]) for p in own)]
    counts = account(standing)
    code = verdict(counts.dead, errors.threshold, counts.planned)
    before = manifests.latest(store, job.paths)
    replaced = {*(before.replaced if before is not None else ()), *generation.replaced}
    manifest = manifests.create(
        store, job.paths, standing, generation.number, code, ran_with.told_precision if ran_with else None, replaced
    )
    remove_replaced(store, job, manifest)
    for entry in parts.unnamed_dead_letters(store, job.paths, manifest.parts, manifest.replaced):
        store.delete(entry.path)
    return manifest
