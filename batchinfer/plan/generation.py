"""A generation: one plan of a job as its record on the store says it. What a resume works from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.plan.fingerprint import Fingerprint
from batchinfer.plan.plan import Plan
from batchinfer.plan.shards import Shard

Kind = Literal["run", "retry", "extension"]


@dataclass(frozen=True)
class Generation:
    """Which rows are attempted, in which shards, and with what. Shard numbers go on from one generation to the next."""

    number: int
    """From 1; each one builds on the manifest of the one before."""
    kind: Kind
    """`run` plans rows for the first time; `retry` attempts rows again that an earlier generation left dead; `extension` plans those of
    files that came to the input since, or were rewritten.
    """
    fingerprint: Fingerprint
    window: int
    """Rows of a window."""
    carried: Mapping[str, str]
    """Columns of the output that come from the input, with their types in words."""
    files: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    selection: tuple[str, ...] = ()
    """Which dead rows a retry was asked for, in words; empty for all."""
    replaced: tuple[int, ...] = ()
    """In an extension: shards of generations before whose rows are no longer the job's, as their files were rewritten or removed."""
    removed: tuple[str, ...] = ()
    """In an extension: files that are gone from the input, and whose rows are no longer the job's."""
    kept: tuple[str, ...] = ()
    """In an extension: files that are gone from the input, and whose rows stay."""

    @property
    def rows(self) -> int:
        """Rows of its shards. Those of a retry are planned already, by an earlier generation."""
        return sum(s.rows for s in self.shards)

    @property
    def planned(self) -> int:
        """Rows that it adds to the job's."""
        return 0 if self.kind == "retry" else self.rows

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads."""
        index = {f.path: n for n, f in enumerate(self.files)}
        return {
            "generation": self.number,
            "kind": self.kind,
            "fingerprint": self.fingerprint.to_json(),
            "window": self.window,
            "carried": dict(self.carried),
            "selection": list(self.selection),
            "replaced": list(self.replaced),
            "removed": list(self.removed),
            "kept": list(self.kept),
            "rows": self.rows,
            "files": [[f.path, f.size, f.version, f.footer, f.rows, list(f.partition)] for f in self.files],
            "shards": [[s.number, s.first, list(_ranges(s, index)), [list(r) for r in s.retries]] for s in self.shards],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Generation:
        """The inverse of `to_json`."""
        files = tuple(
            InputFile(path, size, version, footer, rows, tuple((k, v) for k, v in partition))
            for path, size, version, footer, rows, partition in value["files"]
        )
        return cls(
            value["generation"],
            value["kind"],
            Fingerprint.from_json(value["fingerprint"]),
            value["window"],
            value["carried"],
            files,
            tuple(_shard(files, *shard) for shard in value["shards"]),
            tuple(value["selection"]),
            *(tuple(value.get(key, ())) for key in ("replaced", "removed", "kept")),
        )


def first_generation(plan: Plan) -> Generation:
    """The generation that a job begins with: all of its plan."""
    return Generation(1, "run", plan.fingerprint, plan.reading.window, carried(plan), plan.files, plan.shards)


def carried(plan: Plan) -> dict[str, str]:
    """The carried columns of a plan with their types in words."""
    return {name: str(plan.reading.schema.field(name).type) for name in plan.reading.carry}


def _ranges(shard: Shard, index: dict[str, int]) -> Iterator[list[Any]]:
    """File, first row in it, rows, whether pruned; in a retry also the row of the job that the first one is."""
    for n, r in enumerate(shard.ranges):
        yield [index[r.file.path], r.start, r.rows, r.pruned, *shard.rows_at[n : n + 1]]


def _shard(
    files: tuple[InputFile, ...], number: int, first: int, ranges: list[list[Any]], retries: list[list[Any]]
) -> Shard:
    return Shard(
        number,
        first,
        tuple(RowRange(files[file], start, rows, pruned) for file, start, rows, pruned, *_ in ranges),
        tuple(row for *_, row in ranges) if retries else (),
        tuple((shard, ordinals) for shard, ordinals in retries),
    )
