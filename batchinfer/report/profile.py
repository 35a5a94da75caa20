"""What an output's predictions look like: the distribution of each column, small enough to keep beside every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchinfer.errors import OutputError
from batchinfer.ledger import jobs, records
from batchinfer.ledger.parts import Part
from batchinfer.ledger.settings import outputs
from batchinfer.report.column_profile import ColumnProfile
from batchinfer.report.columns import profiled
from batchinfer.report.sampled_rows import sampled_rows
from batchinfer.storage.store import Store

__all__ = ["MOST_BYTES", "MOST_ROWS", "ColumnProfile", "Profile", "computed", "profile"]

MOST_ROWS = 50_000
MOST_BYTES = 32 * 2**20
_VERSION = 1


@dataclass(frozen=True)
class Profile:
    """The distributions of an output's columns."""

    rows: int
    """Of the output."""
    looked_at: int
    """Of these, how many the distributions are of."""
    columns: tuple[ColumnProfile, ...]
    """In the order of the output; fields of structs and items of lists after the column that they are in."""

    def column(self, name: str) -> ColumnProfile | None:
        """The profile of a column; None where there is none of that name."""
        return next((c for c in self.columns if c.name == name), None)

    def __repr__(self) -> str:
        listed = ", ".join(f"{c.name} ({c.kind})" for c in self.columns[:12])
        return f"Profile({self.looked_at:,} of {self.rows:,} rows: {listed}{', …' if len(self.columns) > 12 else ''})"

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads: a kilobyte or two a column, and for vectors ten or so."""
        return {
            "batchinfer_profile": _VERSION,
            "rows": self.rows,
            "looked_at": self.looked_at,
            "columns": [c.to_json() for c in self.columns],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "the profile") -> Profile:
        """The inverse of `to_json`. Raises OutputError where `value`, read from `where`, isn't a profile."""
        try:
            version = value["batchinfer_profile"]
            columns = tuple(ColumnProfile.from_json(c) for c in value["columns"]) if version == _VERSION else ()
            made = cls(int(value["rows"]), int(value["looked_at"]), columns)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise OutputError(
                f"{where}: not a profile of batchinfer ({e!r}): give an output, or a file that drift --save wrote"
            ) from e
        if version != _VERSION:
            raise OutputError(
                f"{where}: a profile of version {version!r}, and this batchinfer reads {_VERSION}: save it anew"
            )
        return made


def profile(
    store: Store,
    parts: Sequence[Part],
    columns: Sequence[str] | None = None,
    *,
    most_rows: int = MOST_ROWS,
    most_bytes: int = MOST_BYTES,
) -> Profile:
    """The profile of an output from its parts; the same parts give the same profile.

    Args:
        store: the output.
        parts: those that count.
        columns: of the output, carried ones too; None for those that the job's steps computed.
        most_rows: rows that are looked at, about; see `sampled_rows`.
        most_bytes: what these take in memory, about.

    Raises:
        OutputError: a part is gone or damaged.
        RefusedError: there is no such column.
        StorageError, AccessError: the store can't be read.

    """
    table = sampled_rows(store, parts, computed(store) if columns is None else columns, most_rows, most_bytes)
    found: list[ColumnProfile] = []
    for name in table.schema.names:
        column = table.column(name)
        found += profiled(name, column.combine_chunks() if column.num_chunks != 1 else column.chunk(0))
    return Profile(sum(p.counts.succeeded for p in parts), table.num_rows, tuple(found))


def computed(store: Store) -> list[str] | None:
    """The columns that the steps of the store's job compute; None where its settings don't say."""
    job = jobs.current(store)
    schema: pa.Schema | None = (
        None if job is None else outputs(store, job, max(1, records.newest(store, job.paths.plan)))
    )
    return None if schema is None else list(schema.names)
