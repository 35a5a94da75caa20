"""Parts: creating one is the one decision about a shard. The footer says what was decided about every row of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data import footer, ordinals
from batchinfer.data import part as files
from batchinfer.errors import InputError, OutputError
from batchinfer.ledger import chunks
from batchinfer.plan.shards import Shard
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Entry, Store

_KEY = "shard"


@dataclass(frozen=True)
class Counts:
    """planned = succeeded + dead + filtered + not_attempted, always."""

    planned: int = 0
    succeeded: int = 0
    dead: int = 0
    filtered: int = 0
    not_attempted: int = 0
    truncated: int = 0
    """Of those that succeeded, how many the model saw only the beginning of."""

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = asdict(self), asdict(other)
        return Counts(**{k: mine[k] + theirs[k] for k in mine})

    def check(self, where: str) -> None:
        """Raise OutputError where the rows don't add up."""
        if self.planned != self.succeeded + self.dead + self.filtered + self.not_attempted:
            raise OutputError(
                f"{where}: rows are not accounted for: {asdict(self)}; this is a bug in batchinfer, please report it"
            )


@dataclass(frozen=True)
class Decision:
    """What became of a shard's rows; stands in the part's footer."""

    shard: int
    first: int
    """Ordinal in the plan of the shard's first row."""
    counts: Counts
    dead: NDArray[np.int64]
    """Ordinals inside the shard, ascending."""
    filtered: NDArray[np.int64]
    dead_letters: str | None
    """SHA-256 of the dead-letter file; None where no row is dead."""

    def to_metadata(self) -> dict[str, str]:
        """Key and value for the part's footer. Holds no path, host, time or job, so that equal work gives equal bytes."""
        value = {
            "shard": self.shard,
            "first": self.first,
            "counts": asdict(self.counts),
            "dead": ordinals.encode(self.dead),
            "filtered": ordinals.encode(self.filtered),
            "dead_letters": self.dead_letters,
        }
        return {_KEY: json.dumps(value, sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str) -> Decision:
        """The inverse of `to_metadata`. Raises OutputError where `where` isn't a part."""
        if _KEY not in metadata:
            raise OutputError(f"{where}: not a part of batchinfer, though it is named like one")
        try:
            value: dict[str, Any] = json.loads(metadata[_KEY])
            decision = cls(
                value["shard"],
                value["first"],
                Counts(**value["counts"]),
                ordinals.decode(value["dead"]),
                ordinals.decode(value["filtered"]),
                value["dead_letters"],
            )
        except (ValueError, KeyError, TypeError) as e:
            raise OutputError(
                f"{where}: this part is damaged: its footer says nothing sound of its rows ({e!r})"
            ) from e
        counts = decision.counts
        if len(decision.dead) != counts.dead or len(decision.filtered) != counts.filtered:
            raise OutputError(f"{where}: this part is damaged: its footer lists other rows than it counts")
        counts.check(where)
        return decision


@dataclass(frozen=True)
class Part:
    """A part that stands on the store."""

    shard: int
    path: str
    bytes: int
    sha256: str
    counts: Counts
    dead_letters: str | None
    """Path of the dead-letter file that counts for this shard."""
    retries: tuple[tuple[int, str], ...] = ()
    """Dead rows of earlier parts that this one attempted again: their shard, and their ordinals in it (`data.ordinals`).

    Known from the generation's plan, not from the part itself. What this part says of them counts, and no longer what theirs does.
    """

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads."""
        return {**asdict(self), "rows": self.counts.succeeded}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Part:
        """The inverse of `to_json`."""
        return cls(
            value["shard"],
            value["path"],
            value["bytes"],
            value["sha256"],
            Counts(**value["counts"]),
            value["dead_letters"],
            tuple((shard, ordinals) for shard, ordinals in value["retries"]),
        )


def account(parts: Iterable[Part], planned: int | None = None) -> Counts:
    """The job's rows by what became of them, each once: where a row was attempted again, the newer part tells.

    Of so many `planned` rows, those of no part are not attempted; None where the parts hold them all.
    """
    total = Counts()
    for part in parts:
        total += part.counts
        if part.retries:  # planned before, and dead until now; still so where the shard was given up
            counts = part.counts
            again = counts.planned - counts.not_attempted
            total += Counts(planned=-counts.planned, dead=-again, not_attempted=-counts.not_attempted)
    if planned is None:
        return total
    return replace(total, planned=planned, not_attempted=total.not_attempted + planned - total.planned)


def commit(store: Store, job: JobPaths, decision: Decision, data: bytes, dead_letters: bytes | None) -> Part:
    """Decide the shard: dead letters first, then the part, then the chunks may go. Whatever part stands afterwards is returned.

    A part that another runner created first is adopted, and ours is dropped.
    """
    dead_path = _dead_letters_path(job, decision)
    if dead_letters is not None and dead_path is not None:
        store.put(dead_path, dead_letters)
    path = job.part(decision.shard)
    standing = _describe(job, path, decision, data) if store.create(path, data) else read(store, job, decision.shard)
    chunks.delete(store, job, decision.shard)
    return standing


def give_up(store: Store, job: JobPaths, shard: Shard, schema: pa.Schema, compression: str) -> Part:
    """Decide a shard by a part without rows: none of its rows was attempted, and no late runner can decide otherwise."""
    counts, none = Counts(shard.rows, not_attempted=shard.rows), np.empty(0, np.int64)
    decision = Decision(shard.number, shard.first, counts, none, none, None)
    data = files.PartWriter(schema, compression).finish(decision.to_metadata())
    return commit(store, job, decision, data, None)


def read(store: Store, job: JobPaths, shard: int) -> Part:
    """The part of a shard, from its bytes. Raises FileNotFoundError where there is none, OutputError where it is damaged."""
    path = job.part(shard)
    where, data = f"{store.root}/{path}", store.read(path)
    advice = "delete it and run again to make it anew"
    try:
        stands = files.read_footer(data)
        decision = Decision.from_metadata(stands.metadata, where)
    except InputError as e:
        raise OutputError(f"{where}: this part is damaged ({e}); {advice}") from e
    except OutputError as e:
        raise OutputError(f"{e}; {advice}") from e
    if decision.shard != shard or decision.counts.succeeded != stands.rows:
        raise OutputError(
            f"{where}: this part says that it is of shard {decision.shard} with {decision.counts.succeeded} rows, "
            f"and it has {stands.rows}: was it renamed or altered? If so, {advice}"
        )
    return _describe(job, path, decision, data)


def find(store: Store, job: JobPaths, shard: int) -> Part | None:
    """The part of a shard; None where it isn't decided. Raises what `read` raises."""
    try:
        return read(store, job, shard)
    except FileNotFoundError:
        return None


def schema(store: Store, part: Part) -> pa.Schema:
    """The columns of a part that stands. Raises OutputError where it is gone or damaged."""
    return fetch_footer(store, part.path, part.bytes).schema.remove_metadata()


def decision(store: Store, part: Part) -> Decision:
    """What a part that stands says of its rows. Raises OutputError where it is gone or damaged."""
    return decision_in(fetch_footer(store, part.path, part.bytes), f"{store.root}/{part.path}")


def decision_in(found: footer.Footer, where: str) -> Decision:
    """What a part's footer says of its rows; `where` names the part. Raises OutputError where it says nothing sound."""
    return Decision.from_metadata(files.ours(found.metadata), where)


def fetch_footer(store: Store, path: str, size: int) -> footer.Footer:
    """The footer of a part of `size` bytes. Raises OutputError where the part is gone or damaged."""
    where = f"{store.root}/{path}"
    try:
        return footer.parse(footer.fetch(store, path, size, where), size, where)
    except InputError as e:
        raise damaged(where, e) from e


def damaged(where: str, why: Exception) -> OutputError:
    """The error of a part that stands and can't be read."""
    return OutputError(f"{where}: this part is damaged ({why}): put it back from a copy, or begin anew with --restart")


def list_shards(store: Store, job: JobPaths) -> set[int]:
    """The shards that are decided."""
    return {shard for e in store.list(paths.DATA) if (shard := job.shard_of_part(e.path)) is not None}


def unnamed_dead_letters(
    store: Store, job: JobPaths, parts: Iterable[Part], replaced: Iterable[int] = ()
) -> list[Entry]:
    """Dead-letter files that no part names, of these parts' shards (those of runners that lost the decision) and of shards that were replaced.

    Those of other shards are left alone: a runner may be about to create the part that names them.
    """
    named = {**dict.fromkeys(replaced), **{p.shard: p.dead_letters for p in parts}}
    return [
        e
        for e in store.list(paths.DEAD_LETTERS)
        if (shard := job.shard_of_dead_letters(e.path)) in named and e.path != named[shard]
    ]


def _describe(job: JobPaths, path: str, decision: Decision, data: bytes) -> Part:
    return Part(
        decision.shard,
        path,
        len(data),
        hashlib.sha256(data).hexdigest(),
        decision.counts,
        _dead_letters_path(job, decision),
    )


def _dead_letters_path(job: JobPaths, decision: Decision) -> str | None:
    return None if decision.dead_letters is None else job.dead_letters(decision.shard, decision.dead_letters[:12])
