"""What a retry would do: which dead rows, in a generation of their own or in one that was interrupted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.data.types import parse_type
from batchinfer.errors import FingerprintError, InputError, LockedError, OutputError
from batchinfer.job.spec import JobSpec
from batchinfer.ledger import dead, generations, jobs, manifests, parts, settings
from batchinfer.ledger.host import HERE, Host
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.manifests import Manifest
from batchinfer.plan.fingerprint import differences, fixed, with_files
from batchinfer.plan.generation import Generation, carried
from batchinfer.plan.plan import Plan
from batchinfer.plan.retry import retry_shards
from batchinfer.run.judge import end
from batchinfer.storage import paths
from batchinfer.storage.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """Which dead rows are attempted again: those that meet every condition that is given."""

    errors: tuple[str, ...] = ()
    """The row's error class or error type is one of these; none: any."""
    retryable: bool = False
    """The dead letter says that trying again may help."""

    @property
    def words(self) -> tuple[str, ...]:
        """As it is recorded."""
        return (*sorted(set(self.errors)), *(["retryable"] if self.retryable else []))

    def of(self, letters: pa.Table) -> pa.Table:
        """The dead letters that meet it."""
        if self.errors:
            named = pa.array(self.errors, pa.string())
            letters = letters.filter(
                pc.or_(pc.is_in(letters["error_class"], named), pc.is_in(letters["error_type"], named))
            )
        return letters.filter(letters["retryable"]) if self.retryable else letters


@dataclass(frozen=True)
class Work:
    """What a retry finds."""

    job: Job
    before: Manifest
    """The newest."""
    plan: Plan
    """Over those of the input's files that belong to the job."""
    interrupted: Generation | None
    """A generation that was begun and has not ended."""
    generation: Generation | None
    """What there is to do: the interrupted one, or one that isn't recorded yet; None where no row is left to attempt."""


def find(store: Store, plan: Plan, selection: Selection, host: Host = HERE) -> Work:
    """What there is to do; changes nothing.

    Raises:
        OutputError: there is no job, or it has not been run to its end.
        FingerprintError: the plan differs from the job in more than a retry may change.
        InputError: rows can't be found any more.

    """
    job = jobs.current(store)
    if job is None:
        raise OutputError(f"{store.root}: no job of batchinfer has written here")
    before = manifests.latest(store, job.paths)
    if before is None:
        raise OutputError(
            f"{store.root}: this job has not been run to its end, and a retry is for the rows that are dead then (batchinfer "
            "status says how far it is). Run it to its end as it was, with --set errors.on_exceed=finish where too many dead "
            "rows stopped it, then mend the cause and retry; or mend it and begin anew: batchinfer run --restart"
        )
    known = generations.every(store, job.paths)
    plan = _of_the_job(plan, known)
    _refuse_other(store, job, plan, known)
    interrupted = known[-1] if generations.is_open(known[-1], before) else None
    if interrupted is not None and _is(interrupted, plan, selection):
        return Work(job, before, plan, interrupted, interrupted)
    standing = generations.parts_so_far(store, job.paths, known, before)
    letters = selection.of(dead.counted(dead.letters(store, standing, known, host)))
    shards = retry_shards(letters, plan, {s.number: s for g in known for s in g.shards})
    new = Generation(
        known[-1].number + 1,
        "retry",
        plan.fingerprint,
        plan.reading.window,
        carried(plan),
        tuple({r.file.path: r.file for s in shards for r in s.ranges}.values()),
        shards,
        selection.words,
    )
    return Work(job, before, plan, interrupted, new if shards else None)


def begin(store: Store, plan: Plan, selection: Selection, host: Host = HERE) -> Work:
    """Find the work and record the generation that does it. Call it as the job's runner.

    An interrupted retry that isn't this one is given up.

    Raises what `find` raises, and LockedError where another retry is begun at the same moment.
    """
    work = find(store, plan, selection, host)
    while work.interrupted is not None and work.generation is not work.interrupted:
        give_up(store, work.job, work.interrupted, work.before, plan.spec)
        work = find(store, plan, selection, host)  # its runner may have settled rows until it was ended
    if work.generation is None or work.generation is work.interrupted:
        return work
    generation = generations.begin(store, work.job.paths, work.generation)
    if not _is(generation, work.plan, selection):
        raise LockedError(f"{store.root}: another retry was begun at the same moment; run again when it has ended")
    return replace(work, generation=generation)


def give_up(store: Store, job: Job, interrupted: Generation, before: Manifest, spec: JobSpec) -> Manifest:
    """End an interrupted retry where it stands: the rows of its undecided shards stay dead. Call it as the job's runner.

    Each of these shards is decided by an empty part, so that no late runner of the retry can decide otherwise.
    """
    store.delete(
        paths.SUCCESS
    )  # its runner may have died before it did so, and parts are to come that no manifest lists
    schema = parts.schema(store, before.parts[0])
    standing = parts.list_shards(store, job.paths)
    own, dropped = [], 0
    for shard in interrupted.shards:
        if shard.number in standing:
            own.append(parts.read(store, job.paths, shard.number))
            continue
        own.append(parts.give_up(store, job.paths, shard, schema, spec.output.compression))
        dropped += shard.rows
    log.warning(
        "%s: a retry that was interrupted ends here; %d of its rows stay dead as they were", store.root, dropped
    )
    ran_with = settings.find(store, job, interrupted.number)
    return end(store, job, interrupted, before.parts, own, spec.errors, ran_with)


def _is(generation: Generation, plan: Plan, selection: Selection) -> bool:
    return generation.fingerprint.digest == plan.fingerprint.digest and generation.selection == selection.words


def _of_the_job(plan: Plan, known: tuple[Generation, ...]) -> Plan:
    """The plan without files that came to the input later: their rows are none of the job's."""
    planned = {f.path for g in known if g.kind != "retry" for f in g.files}
    files = tuple(f for f in plan.files if f.path in planned)
    return (
        plan
        if len(files) == len(plan.files)
        else replace(plan, files=files, fingerprint=with_files(plan.fingerprint, files))
    )


def _refuse_other(store: Store, job: Job, plan: Plan, known: tuple[Generation, ...]) -> None:
    was, now = fixed(job.fingerprint), fixed(plan.fingerprint)
    if was.digest != now.digest:
        changes = "\n".join(f"  {line}" for line in differences(was, now))
        raise FingerprintError(
            f"{store.root}: a retry may change the model, its code and options, and values of the input, but not:\n{changes}\n"
            "Undo that, or start afresh: batchinfer run --restart (removes the former output)."
        )
    refuse_other_columns(store, job, plan, known)


def refuse_other_columns(store: Store, job: Job, plan: Plan, known: Sequence[Generation]) -> None:
    """Refuse a plan whose parts would have other columns or types than those that stand.

    Raises InputError for carried columns, FingerprintError for those of the model.
    """
    columns = carried(plan)
    for name, kind in known[0].carried.items():
        if columns[name] != kind:
            raise InputError(
                f"output.carry: the column {name!r} is {kind} in the parts that stand, and {columns[name]} in the input now: "
                "write the input with the type that it had"
            )
    outputs = settings.outputs(store, job, known[-1].number)
    if outputs is not None and list(plan.computed) != outputs.names:
        raise FingerprintError(
            f"{store.root}: the parts that stand have the outputs {', '.join(outputs.names)}, and now they come as "
            f"{', '.join(plan.computed)}: bring them into that order"
        )
    for output in (o for step in plan.spec.steps for o in step.outputs.values()):
        if outputs is None or output.column not in outputs.names:
            continue
        stands = outputs.field(output.column).type
        if output.type is not None and not pa.types.is_null(stands) and parse_type(output.type) != stands:
            raise FingerprintError(
                f"{store.root}: the column {output.column!r} is {stands} in the parts that stand, and {output.type} is asked "
                "for now: rows are added to them, so leave the type as it is"
            )
