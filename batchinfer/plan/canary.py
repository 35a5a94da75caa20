"""Which of a job's rows a canary takes: a few pieces spread over the input, and larger ones after them for a model that is done at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from batchinfer.data.inputs import RowRange
from batchinfer.plan.shards import Shard

GROWTH = 4
"""By how much the pieces of a round are larger than those of the one before."""


def rounds(shards: Sequence[Shard], rows: int, pieces: int) -> tuple[tuple[Shard, ...], ...]:
    """Rounds of so many pieces of equal size, each a shard of its own, evenly spread over the rows that `shards` read.

    The first round has `rows` rows, those after it more, up to the last that the job is large enough for: all of them together are about
    as large as the job, so that what is settled on them is what the job itself would settle. A job of fewer rows is one round.

    Args:
        shards: of the job.
        rows: of the first round, at least one for each piece.
        pieces: in a round.

    Returns:
        The rounds in order, their shards numbered from 0 on; none where there is no row to read.

    """
    ranges = [r for shard in shards for r in shard.ranges if not r.pruned and r.rows]
    ends = list(accumulate(r.rows for r in ranges))
    total = ends[-1] if ends else 0
    if not total:
        return ()
    pieces = min(pieces, total)
    size = max(1, min(rows, total) // pieces)
    found: list[tuple[Shard, ...]] = []
    number = first = 0
    while not found or pieces * size <= total:
        begins = [n * (total - size) // max(1, pieces - 1) for n in range(pieces)]
        found.append(
            tuple(
                Shard(number + n, first + n * size, tuple(_span(ranges, ends, begin, size)))
                for n, begin in enumerate(begins)
            )
        )
        number, first, size = number + pieces, first + pieces * size, size * GROWTH
    return tuple(found)


def _span(ranges: Sequence[RowRange], ends: Sequence[int], begin: int, rows: int) -> list[RowRange]:
    """So many rows of the ranges, one after the other, from the row `begin` on; `ends` are their rows, added up."""
    span: list[RowRange] = []
    at = bisect_right(ends, begin)
    while rows:
        within = ranges[at]
        skipped = begin - (ends[at] - within.rows)
        taken = min(rows, within.rows - skipped)
        span.append(RowRange(within.file, within.start + skipped, taken))
        begin, rows, at = begin + taken, rows - taken, at + 1
    return span
