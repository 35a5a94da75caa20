"""The end of a generation: every valid part of the job so far with its digest, the counts, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from batchinfer.ledger import records
from batchinfer.ledger.parts import Counts, Part, account
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.single_writer import SingleWriterStore
from batchinfer.storage.store import Store


@dataclass(frozen=True)
class Manifest:
    """What `data/` must hold, in the order of the shards: that of the input, retries last."""

    generation: int
    parts: tuple[Part, ...]
    counts: Counts
    """Of the job: each planned row once."""
    verdict: int
    """Exit code of the run that wrote it; a later run with another threshold may judge otherwise."""
    exclusive: str = "proven"
    """`proven`: the store keeps conditional creates; `assumed`: the user said that nobody else writes."""
    precision: Mapping[str, Any] = field(default_factory=dict)
    """What the generation's model ran at (`name`), and the quality gate's verdict on it (`gate`) where there is one."""
    replaced: tuple[int, ...] = ()
    """Shards of all generations so far whose parts were replaced, and must not stand any more."""

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads."""
        return {
            "generation": self.generation,
            "parts": [p.to_json() for p in self.parts],
            "rows": asdict(self.counts),
            "verdict": self.verdict,
            "exclusive": self.exclusive,
            "precision": dict(self.precision),
            "replaced": list(self.replaced),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Manifest:
        """The inverse of `to_json`."""
        return cls(
            value["generation"],
            tuple(Part.from_json(p) for p in value["parts"]),
            Counts(**value["rows"]),
            value["verdict"],
            value.get("exclusive", "proven"),
            value.get("precision", {}),
            tuple(value.get("replaced", ())),
        )


def newest(store: Store, job: JobPaths) -> int:
    """Number of the newest generation that has ended; 0 before the first."""
    return records.newest(store, job.manifest)


def latest(store: Store, job: JobPaths) -> Manifest | None:
    """The newest manifest of a job; None before its first generation ends."""
    number = newest(store, job)
    return Manifest.from_json(records.read(store, job.manifest(number))) if number else None


def create(
    store: Store,
    job: JobPaths,
    parts: list[Part],
    generation: int,
    verdict: int,
    precision: Mapping[str, Any] | None = None,
    replaced: Iterable[int] = (),
) -> Manifest:
    """End a generation. Where another runner ended it first, its manifest is returned."""
    ordered = tuple(sorted(parts, key=lambda p: p.shard))
    exclusive = "assumed" if isinstance(store, SingleWriterStore) else "proven"
    manifest = Manifest(
        generation, ordered, account(ordered), verdict, exclusive, precision or {}, tuple(sorted(replaced))
    )
    for part in ordered:
        part.counts.check(f"{store.root}/{part.path}")
    manifest.counts.check(f"{store.root}/{job.manifest(generation)}")
    if records.create(store, job.manifest(generation), manifest.to_json()):
        return manifest
    return Manifest.from_json(records.read(store, job.manifest(generation)))


def mark_success(store: Store) -> None:
    """Put the empty file that tells readers that all is there."""
    store.put(paths.SUCCESS, b"")
