"""The end of a generation: every valid part with its digest, the counts, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from batchinfer.ledger import records
from batchinfer.ledger.parts import Counts, Part
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store

PROVEN, ASSUMED = "proven", "assumed"


@dataclass(frozen=True)
class Manifest:
    """What `data/` must hold, in input order."""

    generation: int
    parts: tuple[Part, ...]
    counts: Counts
    verdict: int
    """Exit code of the run that wrote it; a later run with another threshold may judge otherwise."""
    exclusive: str = PROVEN
    """`proven`: the store keeps conditional creates; `assumed`: the user said that nobody else writes."""

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads."""
        return {
            "generation": self.generation,
            "parts": [p.to_json() for p in self.parts],
            "rows": asdict(self.counts),
            "verdict": self.verdict,
            "exclusive": self.exclusive,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Manifest:
        """The inverse of `to_json`."""
        return cls(
            value["generation"],
            tuple(Part.from_json(p) for p in value["parts"]),
            Counts(**value["rows"]),
            value["verdict"],
            value.get("exclusive", PROVEN),
        )


def latest(store: Store, job: JobPaths) -> Manifest | None:
    """The newest manifest of a job; None before its first generation ends."""
    numbers = records.numbers(store, f"{job.folder}/manifests")
    return Manifest.from_json(records.read(store, job.manifest(numbers[-1]))) if numbers else None


def create(
    store: Store, job: JobPaths, parts: list[Part], generation: int, verdict: int, exclusive: str = PROVEN
) -> Manifest:
    """End a generation. Where another runner ended it first, its manifest is returned."""
    ordered = tuple(sorted(parts, key=lambda p: p.shard))
    manifest = Manifest(generation, ordered, sum((p.counts for p in ordered), Counts()), verdict, exclusive)
    for part in ordered:
        part.counts.check(f"{store.root}/{part.path}")
    if records.create(store, job.manifest(generation), manifest.to_json()):
        return manifest
    return Manifest.from_json(records.read(store, job.manifest(generation)))


def mark_success(store: Store) -> None:
    """Put the empty file that tells readers that all is there."""
    store.put(paths.SUCCESS, b"")
