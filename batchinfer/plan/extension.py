"""What an extension does: which files are new, rewritten or gone since the job was planned last, and which shards follow from that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from batchinfer.data.inputs import InputFile
from batchinfer.errors import InputError
from batchinfer.plan.describe import count
from batchinfer.plan.generation import Generation, carried
from batchinfer.plan.plan import Plan
from batchinfer.plan.shards import Shard

OnRemoved = Literal["error", "keep", "drop"]
_NAMED = 5


@dataclass(frozen=True)
class Changes:
    """Of a job's input since it was planned last; paths in input order."""

    new: tuple[str, ...]
    rewritten: tuple[str, ...]
    gone: tuple[str, ...]
    """That nothing was decided about yet."""


def files_of(generations: Iterable[Generation]) -> dict[str, InputFile]:
    """The files whose rows are the job's after these generations, by path."""
    files: dict[str, InputFile] = {}
    for generation in generations:
        if generation.kind != "retry":
            files |= {f.path: f for f in generation.files}
            for path in generation.removed:
                files.pop(path, None)
    return files


def standing_shards(generations: Iterable[Generation]) -> dict[int, Shard]:
    """The shards whose rows are the job's after these generations, by number."""
    shards: dict[int, Shard] = {}
    for generation in generations:
        for number in generation.replaced:
            shards.pop(number, None)
        shards |= {s.number: s for s in generation.shards}
    return shards


def planned_rows(generations: Sequence[Generation]) -> int:
    """Rows of the job after these generations."""
    retried = {s.number for g in generations if g.kind == "retry" for s in g.shards}
    return sum(s.rows for n, s in standing_shards(generations).items() if n not in retried)


def changes(plan: Plan, known: Sequence[Generation]) -> Changes:
    """What differs between the input as it is now and as the job has it."""
    before, kept = files_of(known), {path for g in known for path in g.kept}
    now = {f.path for f in plan.files}
    return Changes(
        tuple(f.path for f in plan.files if f.path not in before),
        tuple(f.path for f in plan.files if before.get(f.path, f) != f),
        tuple(path for path in before if path not in now and path not in kept),
    )


def extension(
    plan: Plan, known: Sequence[Generation], on_removed: OnRemoved, given_up: Collection[int] = ()
) -> Generation:
    """The generation that brings a job's output up to its input, with shards that are numbered on.

    Args:
        plan: of the input as it is now, with no shard of several files.
        known: all generations of the job, which have ended.
        on_removed: what becomes of the rows of files that are gone.
        given_up: shards that were decided without rows, as their files had changed, or seemed to: they are predicted now. Of a file that
            is gone only the others stay, where its rows are to.

    Where a part holds rows of a file that changed together with rows of others, those files are predicted again too: a part is
    replaced as a whole.

    Raises:
        InputError: files are gone and nobody said what becomes of their rows; or a part to be replaced holds rows of one that is gone and
            whose rows stay.

    """
    found = changes(plan, known)
    if found.gone and on_removed == "error":
        raise InputError(
            f"input.path: {count(len(found.gone), 'file')} whose rows are predicted {'is' if len(found.gone) == 1 else 'are'} gone: "
            f"{_named(found.gone)}. Say what becomes of the rows: run.on_removed: keep or drop"
        )
    dropped = found.gone if on_removed == "drop" else ()
    standing = standing_shards(known)
    present = {f.path for f in plan.files}
    missed = {number: {r.file.path for r in standing[number].ranges} for number in given_up if number in standing}
    lost = {number: paths for number, paths in missed.items() if not paths & present}
    again = {path for number, paths in missed.items() if number not in lost for path in paths & present}
    renewed = {*found.new, *found.rewritten, *again}
    # A new file may have been here before, and have gone before it was predicted: then shards of it stand, too.
    replaced = _replaced(standing, {*renewed, *dropped}, present | set(dropped))
    removed = (*dropped, *sorted({path for paths in lost.values() for path in paths}.difference(dropped)))
    beside = {r.file.path for number in replaced for r in standing[number].ranges} - set(dropped)
    wanted = renewed | beside
    numbered, row = _next(known)
    shards: list[Shard] = []
    for shard in plan.shards:
        if shard.ranges and shard.ranges[0].file.path in wanted:
            shards.append(replace(shard, number=numbered + len(shards), first=row))
            row += shard.rows
    return Generation(
        known[-1].number + 1,
        "extension",
        plan.fingerprint,
        plan.reading.window,
        carried(plan),
        tuple(f for f in plan.files if f.path in wanted),
        tuple(shards),
        replaced=tuple(sorted({*replaced, *lost})),
        removed=removed,
        kept=() if on_removed == "drop" else tuple(path for path in found.gone if path not in removed),
    )


def told(generation: Generation, known: Mapping[str, InputFile]) -> str:
    """What an extension does, in words; `known` are the job's files before it."""
    again = [f.path for f in generation.files if known.get(f.path, f) != f]
    beside = [f.path for f in generation.files if known.get(f.path) == f]
    new = [f.path for f in generation.files if f.path not in known]
    words = [
        f"{count(len(paths), 'file')} {what} ({_named(paths)})"
        for paths, what in (
            (new, "new"),
            (again, "rewritten"),
            (beside, "in the same parts as those"),
            (generation.removed, "gone, with their rows"),
            (generation.kept, "gone, whose rows stay"),
        )
        if paths
    ]
    return f"{', '.join(words)}; {count(generation.rows, 'row')} to predict"


def _next(known: Sequence[Generation]) -> tuple[int, int]:
    """The number of the next shard, and the job's row that it begins with."""
    shards = [s for g in known for s in g.shards]
    own = [s for g in known if g.kind != "retry" for s in g.shards]
    return max((s.number for s in shards), default=-1) + 1, max((s.first + s.rows for s in own), default=0)


def _replaced(standing: Mapping[int, Shard], paths: set[str], present: Collection[str]) -> tuple[int, ...]:
    """The shards that have rows of these files, and of files that such shards have rows of, and so on; `present` can be read or needn't be."""
    files = {number: {r.file.path for r in shard.ranges} for number, shard in standing.items()}
    found: set[int] = set()
    while more := {number for number, of in files.items() if number not in found and of & paths}:
        found |= more
        for number in sorted(more):
            if missing := sorted(files[number].difference(present)):
                raise InputError(
                    f"input.path: {min(files[number] & paths)} changed, and part {number} holds rows of it together with rows of "
                    f"{missing[0]}, which is gone and can't be predicted again: bring it back, or let its rows go (run.on_removed: drop)"
                )
            paths = paths | files[number]
    return tuple(sorted(found))


def _named(paths: Sequence[str]) -> str:
    return ", ".join(paths[:_NAMED]) + (f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else "")
