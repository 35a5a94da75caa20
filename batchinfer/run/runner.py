"""The runner: takes a job that is planned, makes sure of its place on the output, has every shard decided, and ends it.

All that lasts is on the store; what is in this process can be lost at any line and is found again by running the same command.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace

from batchinfer.errors import FingerprintError, LockedError, OutputError
from batchinfer.ledger import epochs, generations, jobs, manifests, parts
from batchinfer.ledger.epochs import Epoch
from batchinfer.ledger.host import Host
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.spending import Spent
from batchinfer.plan.fingerprint import differences
from batchinfer.plan.generation import Generation, first_generation
from batchinfer.plan.plan import Plan
from batchinfer.run import extending, interrupts, retrying
from batchinfer.run.events import Finished, Listener, RunResult, State
from batchinfer.run.generation import GenerationRun
from batchinfer.run.judge import judge
from batchinfer.run.retrying import Selection
from batchinfer.run.stop import StopRequest
from batchinfer.run.surroundings import USUAL, Surroundings
from batchinfer.storage.single_writer import SingleWriterStore
from batchinfer.storage.store import Store

log = logging.getLogger(__name__)


def run(
    plan: Plan,
    listener: Listener,
    stop: StopRequest | None = None,
    *,
    restart: bool = False,
    surroundings: Surroundings = USUAL,
) -> RunResult:
    """Run a plan to its end, or as far as it goes.

    Running it again continues, a retry that was interrupted too; running a finished one repeats its verdict without work.

    Args:
        plan: from `make_plan`.
        listener: told of everything; must not raise.
        stop: a request to drain and end, which another thread or a signal handler may make at any time.
        restart: remove what a former job left, and begin anew.
        surroundings: the machine, storage and workers to run with.

    Raises:
        RefusedError: see its kinds; nothing was run.
        LockedError: another runner is alive.
        StorageError, ClusterError: these are away; what is finished is safe.

    """
    host = surroundings.host
    store = surroundings.open_store(plan.spec)
    began = host.monotonic()
    if not restart and (finished := _finished(store, plan)) is not None:
        result = _with_former_cost(judge(store, plan.spec, *finished), store, plan, host)
    else:
        store = _probed(store, single_writer=plan.spec.run.single_writer)
        job = _take(store, plan, host, restart=restart)
        stop = StopRequest() if stop is None else stop
        with _epoch(store, job, stop, host) as epoch, interrupts.heard(stop):
            jobs.remove_former(store, job)
            result = _brought_up(store, job, plan, epoch, listener, stop, surroundings)
            result = _with_cost(result, epoch, plan)
    return _told(result, host.monotonic() - began, listener)


def retry(
    plan: Plan,
    selection: Selection,
    listener: Listener,
    stop: StopRequest | None = None,
    *,
    surroundings: Surroundings = USUAL,
) -> RunResult:
    """Attempt dead rows of a finished job again, as a generation of its own.

    The same call resumes a retry that was interrupted. Where no row is left to attempt, the verdict is repeated without work.

    Args:
        plan: of the job as it is now; model, code and input files may differ from those that it was run with.
        selection: which dead rows.
        listener: told of everything; must not raise.
        stop: see `run`.
        surroundings: see `run`.

    Raises:
        RefusedError: there is no finished job, or it differs in more than a retry may change; nothing was run.
        LockedError, StorageError, ClusterError: see `run`.

    """
    host = surroundings.host
    store = surroundings.open_store(plan.spec)
    began = host.monotonic()
    work = retrying.find(store, plan, selection, host)
    if work.generation is None and work.interrupted is None:
        result = _with_former_cost(judge(store, plan.spec, work.job, work.before), store, plan, host)
    else:
        store = _probed(store, single_writer=plan.spec.run.single_writer)
        stop = StopRequest() if stop is None else stop
        with _epoch(store, work.job, stop, host) as epoch, interrupts.heard(stop):
            begun = retrying.begin(store, plan, selection, host)
            if begun.generation is None:
                result = judge(store, plan.spec, begun.job, begun.before)
            else:
                generation, before = begun.generation, begun.before
                mine = GenerationRun(
                    begun.plan, store, begun.job, epoch, generation, before, listener, stop, surroundings
                )
                result = mine.result()
            result = _with_cost(result, epoch, plan)
    return _told(result, host.monotonic() - began, listener)


def _brought_up(
    store: Store,
    job: Job,
    plan: Plan,
    epoch: Epoch,
    listener: Listener,
    stop: StopRequest,
    surroundings: Surroundings,
) -> RunResult:
    """Have the job's newest generation end, and after it the extension that the plan is, where it is one."""
    generation = _generation(store, job, plan)
    changes = ""
    while True:
        before = manifests.latest(store, job.paths)
        # Another runner may have ended it while we waited for our epoch.
        if before is not None and not generations.is_open(generation, before):
            result = judge(store, plan.spec, job, before)
        else:
            mine = GenerationRun(plan, store, job, epoch, generation, before, listener, stop, surroundings)
            result = replace(mine.result(), changes=changes)
        if result.state not in (State.SUCCEEDED, State.PARTIAL) or not extending.is_needed(store, job, plan):
            return result
        generation, changes = extending.begin(store, job, plan)


def _with_cost(result: RunResult, epoch: Epoch, plan: Plan) -> RunResult:
    """The result with what the run took of devices, all generations that it worked on together."""
    return replace(result, spent=epoch.meter.spent(plan.spec.resources.price_per_hour))


def _with_former_cost(result: RunResult, store: Store, plan: Plan, host: Host) -> RunResult:
    """The verdict of a run that had nothing to do, with what the runs before took."""
    standing = epochs.newest(store, result.job, host)
    taken = standing.device_seconds if standing else 0.0
    spent = Spent(job_device_seconds=taken, price_per_hour=plan.spec.resources.price_per_hour)
    return replace(result, spent=spent)


def _told(result: RunResult, seconds: float, listener: Listener) -> RunResult:
    result = replace(result, seconds=seconds)
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
    if job is None or not generations.accepts(store, job.paths, job.fingerprint, plan.fingerprint):
        return None
    manifest = manifests.latest(store, job.paths)
    if manifest is None or generations.numbers(store, job.paths)[-1] > manifest.generation:
        return None
    if manifest.counts.not_attempted and extending.is_needed(store, job, plan):
        return None
    return job, manifest


def _generation(store: Store, job: Job, plan: Plan) -> Generation:
    """The job's newest generation, which is begun where there is none.

    A retry of another model that ended before it decided anything, such as by a model that can't be loaded, is given up.
    """
    numbers = generations.numbers(store, job.paths)
    if not numbers:
        generation = generations.begin(store, job.paths, first_generation(plan))
    else:
        generation = generations.read(store, job.paths, numbers[-1])
    if generation.fingerprint.digest == plan.fingerprint.digest:
        return generation
    before = manifests.latest(store, job.paths)
    if not generations.is_open(generation, before) or extending.may_go_on(store, job, generation, plan):
        return generation
    if before is not None and parts.list_shards(store, job.paths).isdisjoint(s.number for s in generation.shards):
        retrying.give_up(store, job, generation, before, plan.spec)
        return generation
    changes = "\n".join(f"  {line}" for line in differences(generation.fingerprint, plan.fingerprint))
    raise FingerprintError(
        f"{store.root}: a {generation.kind} of this job was interrupted that differs from what is asked now in:\n{changes}\n"
        f"Finish it as it was begun, or end it by another one: batchinfer retry {store.root}"
    )


def _take(store: Store, plan: Plan, host: Host, *, restart: bool) -> Job:
    """The job's record; a former job that is to be replaced must have no runner."""
    former = jobs.current(store)
    if former is not None and not restart and extending.is_needed(store, former, plan):
        if generations.numbers(store, former.paths):
            return former
        restart = True  # whoever made its record, of other files, ended before anything was begun
    overwrite = plan.spec.output.mode == "overwrite"
    if former is not None and (
        restart or (overwrite and not generations.accepts(store, former.paths, former.fingerprint, plan.fingerprint))
    ):
        standing = epochs.newest(store, former.paths, host)
        if standing is not None and epochs.is_alive(store, former.paths, standing, host):
            raise LockedError(
                f"{store.root}: {standing.owner} is running the job that is to be replaced; stop it first"
            )
    return jobs.find_or_create(
        store,
        plan.spec.name,
        plan.fingerprint,
        host.identity(),
        fresh=restart,
        overwrite=overwrite,
        written=plan.spec.written.to_json() if plan.spec.written is not None else None,
    )


@contextlib.contextmanager
def _epoch(store: Store, job: Job, stop: StopRequest, host: Host) -> Iterator[Epoch]:
    """This runner's time; its end is recorded also when an error ends it, unless the store is away."""
    epoch = Epoch.begin(
        store,
        job.paths,
        lambda: stop.ask("another runner has taken over, or may have"),
        host,
        lambda who: stop.ask(f"cancelled by {who}", cancelled=True),
    )
    how = "error"
    try:
        yield epoch
        how = "end"
    finally:
        epoch.close(how)
