"""The runner: takes a job that is planned, makes sure of its place on the output, has every shard decided, and ends it.

All that lasts is on the store; what is in this process can be lost at any line and is found again by running the same command.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from batchinfer.errors import BatchinferError, LockedError, OutputError
from batchinfer.ledger import epochs, jobs, manifests
from batchinfer.ledger.epochs import Epoch
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.manifests import Manifest
from batchinfer.plan.plan import Plan
from batchinfer.run import interrupts
from batchinfer.run.events import Finished, Listener, RunResult
from batchinfer.run.generation import Generation, judge
from batchinfer.run.stop import StopRequest
from batchinfer.storage import paths
from batchinfer.storage.single_writer import SingleWriterStore
from batchinfer.storage.store import Store, open_store

log = logging.getLogger(__name__)


def run(plan: Plan, listener: Listener, stop: StopRequest | None = None, *, restart: bool = False) -> RunResult:
    """Run a plan to its end, or as far as it goes.

    Running it again continues; running a finished one repeats its verdict without work.

    Args:
        plan: from `make_plan`.
        listener: told of everything; must not raise.
        stop: a request to drain and end, which another thread or a signal handler may make at any time.
        restart: remove what a former job left, and begin anew.

    Raises:
        RefusedError: see its kinds; nothing was run.
        LockedError: another runner is alive.
        StorageError, ClusterError: these are away; what is finished is safe.

    """
    store = open_store(plan.spec.output.path, plan.spec.storage, scratch=paths.SCRATCH)
    began = time.monotonic()
    if not restart and (finished := _finished(store, plan)) is not None:
        job, manifest = finished
        result = judge(store, plan, job, manifest)
    else:
        store = _probed(store, single_writer=plan.spec.run.single_writer)
        job = _take(store, plan, restart=restart)
        stop = StopRequest() if stop is None else stop
        with _epoch(store, job, stop), interrupts.heard(stop):
            jobs.remove_former(store, job)
            result = Generation(plan, store, job, listener, stop).result()
    result = replace(result, seconds=time.monotonic() - began)
    listener(Finished(result))
    return result


def _probed(store: Store, *, single_writer: bool) -> Store:
    """The store, if it keeps the promise on which everything rests; one without conditional creates where the user answers for it."""
    try:
        jobs.probe(store)
    except OutputError:
        if not single_writer:
            raise
        log.warning(
            "%s: this store has no conditional creates, and --single-writer says that no other run writes there: if one does, "
            "rows may be lost or predicted twice, and nothing will show it",
            store.root,
        )
        return SingleWriterStore(store)
    return store


def _finished(store: Store, plan: Plan) -> tuple[Job, Manifest] | None:
    """The job and its manifest, where this very job has ended before."""
    job = jobs.current(store)
    if job is None or job.fingerprint.digest != plan.fingerprint.digest:
        return None
    manifest = manifests.latest(store, job.paths)
    return None if manifest is None else (job, manifest)


def _take(store: Store, plan: Plan, *, restart: bool) -> Job:
    """The job's record; a former job that is to be replaced must have no runner."""
    former = jobs.current(store)
    overwrite = plan.spec.output.mode == "overwrite"
    if former is not None and (restart or (overwrite and former.fingerprint.digest != plan.fingerprint.digest)):
        standing = epochs.newest(store, former.paths)
        if standing is not None and epochs.is_alive(store, former.paths, standing):
            raise LockedError(
                f"{store.root}: {standing.owner} is running the job that is to be replaced; stop it first"
            )
    return jobs.find_or_create(
        store, plan.spec.name, plan.fingerprint, epochs.identity(), fresh=restart, overwrite=overwrite
    )


@contextlib.contextmanager
def _epoch(store: Store, job: Job, stop: StopRequest) -> Iterator[None]:
    """This runner's time; its end is recorded also when an error ends it, unless the store is away."""
    epoch = Epoch.begin(
        store,
        job.paths,
        lambda: stop.ask("another runner has taken over, or may have: this one couldn't say that it lives"),
        lease=isinstance(store, SingleWriterStore),
    )
    how = "error"
    try:
        yield
        how = "end"
    finally:
        with contextlib.suppress(BatchinferError):
            epoch.close(how)
