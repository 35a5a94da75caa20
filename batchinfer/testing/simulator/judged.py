"""What a part must hold, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from batchinfer.ledger.parts import Counts, Decision
from batchinfer.plan.shards import Shard
from batchinfer.testing.simulator.model import rows_of
from batchinfer.testing.simulator.shape import Shape

_NOISE = 0.25
"""That each step may add."""


class Judged:
    """The rows of a shard, and what must have become of them.

    Args:
        job: over the files of the shard.
        shard: it.
        noisy: whether the models' outputs differ from call to call.

    """

    def __init__(self, job: Shape, shard: Shard, *, noisy: bool) -> None:
        self._job, self._noisy = job, noisy
        rows = rows_of(shard.ranges)
        deaths = {row: step for row in rows if (step := job.dead_by(row)) is not None}
        self._expected = [row for row in rows if row not in deaths and row not in job.filtered]
        self._dead = [n for n, row in enumerate(rows) if row in deaths]
        self._filtered = [n for n, row in enumerate(rows) if row in job.filtered]
        self._counts = Counts(len(rows), len(self._expected), len(self._dead), len(self._filtered))
        at = shard.job_rows().tolist()
        self.letters = [(at[n], deaths[rows[n]]) for n in self._dead]
        """The job's rows that are dead, each with the step that it died at."""

    def wrong(self, table: pa.Table, decision: Decision) -> Iterator[str]:
        """What is wrong with a part."""
        held = table["x"].to_pylist()
        if held != self._expected:
            yield f"holds the rows {held}, not {self._expected}"
            return
        for n, column in enumerate(self._job.columns, 1):
            noise = _NOISE * n if self._noisy else 0.0
            right = [self._job.given(row)[column] for row in held]
            found = table[column].to_pylist()
            wrong = [row for row, is_, must in zip(held, found, right, strict=True) if not _within(is_, must, noise)]
            if wrong:
                yield f"wrong values in {column} of the rows {wrong}"
        if decision.dead.tolist() != self._dead:
            yield f"says that {decision.dead.tolist()} are dead, not {self._dead}"
        if decision.filtered.tolist() != self._filtered:
            yield f"says that others are filtered than {self._filtered}"
        if decision.counts != self._counts:
            yield f"counts {decision.counts}, not {self._counts}"
        if (decision.dead_letters is not None) != bool(self._dead):
            yield f"names dead letters {decision.dead_letters} for {self._dead}"


def _within(found: float | None, right: float | None, noise: float) -> bool:
    if found is None or right is None:
        return found is right
    return right <= found <= right + noise
