"""Which rows of two jobs are the same row of the input: those of one file, known by its footer, at one place in it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from batchinfer.data.inputs import InputFile
from batchinfer.plan.extension import standing_shards
from batchinfer.plan.generation import Generation

_File = tuple[str, int, int, int]
"""Footer's digest, bytes, rows, and which one of several such files of a job."""


@dataclass(frozen=True)
class Span:
    """Consecutive rows of a file that a job numbers one after the other."""

    file: InputFile
    start: int
    """First row in the file."""
    rows: int
    number: int
    """The job's number of the first one."""


@dataclass(frozen=True)
class Matched:
    """Consecutive rows that are in both jobs."""

    first: int
    """The first job's number of the first one."""
    second: int
    """The second job's."""
    rows: int


def spans(generations: Sequence[Generation]) -> list[Span]:
    """The rows of a job in the order of their numbers, in as few spans as can be."""
    made: list[Span] = []
    planned = [s for s in standing_shards(generations).values() if not s.retries]
    for shard in sorted(planned, key=lambda s: s.first):
        number = shard.first
        for r in shard.ranges:
            last = made[-1] if made else None
            if (
                last is not None
                and last.file == r.file
                and (last.start + last.rows, last.number + last.rows) == (r.start, number)
            ):
                made[-1] = Span(last.file, last.start, last.rows + r.rows, last.number)
            else:
                made.append(Span(r.file, r.start, r.rows, number))
            number += r.rows
    return made


def matched(first: Sequence[Span], second: Sequence[Span]) -> list[Matched]:
    """The rows that both jobs have, by the first one's numbers.

    A file may lie elsewhere in the other job's input, or come in another order; where it was copied, it is known by its footer.
    """
    places: dict[_File, list[Span]] = {}
    for span, file in zip(second, _identities(second), strict=True):
        places.setdefault(file, []).append(span)
    for listed in places.values():
        listed.sort(key=lambda s: s.start)
    made: list[Matched] = []
    for span, file in zip(first, _identities(first), strict=True):
        others = places.get(file, [])
        n = max(0, bisect_right(others, span.start, key=lambda s: s.start) - 1)
        for other in others[n:]:
            start = max(span.start, other.start)
            stop = min(span.start + span.rows, other.start + other.rows)
            if other.start >= span.start + span.rows:
                break
            if start < stop:
                made.append(Matched(span.number + start - span.start, other.number + start - other.start, stop - start))
    return made


def _identities(listed: Sequence[Span]) -> list[_File]:
    seen: dict[str, _File] = {}
    alike: Counter[tuple[str, int, int]] = Counter()
    for span in listed:
        if span.file.path not in seen:
            file = (span.file.footer, span.file.size, span.file.rows)
            seen[span.file.path] = (*file, alike[file])
            alike[file] += 1
    return [seen[span.file.path] for span in listed]
