"""The predictions of a job as one frame in input order, rows of retries at their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batchinfer.ledger import parts as ledger_parts
from batchinfer.ledger.parts import Part
from batchinfer.plan.generation import Generation
from batchinfer.plan.shards import Shard
from batchinfer.storage.store import Store

if TYPE_CHECKING:
    import polars as pl

_ORDER = "__batchinfer_order"

Scan = Callable[[Sequence[str]], "pl.LazyFrame"]
"""The rows of some files, given by their paths below the output, one after the other."""


@dataclass(frozen=True)
class _Retried:
    """Rows that a retry predicted: the job's numbers of a part's rows, ascending."""

    part: Part
    rows: NDArray[np.int64]


def in_input_order(store: Store, parts: Iterable[Part], generations: Iterable[Generation], scan: Scan) -> pl.LazyFrame:
    """The rows of these parts in input order. Only parts of which rows were retried are sorted, each by itself."""
    import polars as pl

    shards = {s.number: s for g in generations for s in g.shards}
    ordered = sorted(parts, key=lambda p: p.shard)
    retried = [_Retried(p, _rows(store, p, shards[p.shard])) for p in ordered if p.retries and p.counts.succeeded]
    frames: list[pl.LazyFrame] = []
    plain: list[str] = []
    for part in (p for p in ordered if not p.retries):
        pieces = [piece for r in retried if (piece := _within(scan, r, shards[part.shard])) is not None]
        if not pieces:
            plain.append(part.path)
            continue
        if plain:
            frames.append(scan(plain))
            plain = []
        own = _numbered(scan, part.path, _rows(store, part, shards[part.shard]))
        frames.append(pl.concat([own, *pieces], how="vertical_relaxed").sort(_ORDER).drop(_ORDER))
    if plain:
        frames.append(scan(plain))
    return pl.concat(frames, how="vertical_relaxed") if frames else pl.LazyFrame()


def _rows(store: Store, part: Part, shard: Shard) -> NDArray[np.int64]:
    """The job's numbers of a part's rows."""
    decision = ledger_parts.decision(store, part)
    return np.delete(shard.job_rows(), np.concatenate([decision.dead, decision.filtered]))


def _within(scan: Scan, retried: _Retried, shard: Shard) -> Any:
    """Of a retry's rows those that a shard planned; None where there are none."""
    start, stop = np.searchsorted(retried.rows, [shard.first, shard.first + shard.rows])
    if start == stop:
        return None
    return _numbered(scan, retried.part.path, retried.rows).slice(int(start), int(stop - start))


def _numbered(scan: Scan, path: str, rows: NDArray[np.int64]) -> pl.LazyFrame:
    """The rows of a part with their numbers in the job."""
    import polars as pl

    return (
        scan([path]).with_row_index(_ORDER).with_columns(pl.lit(pl.Series(rows)).gather(pl.col(_ORDER)).alias(_ORDER))
    )
