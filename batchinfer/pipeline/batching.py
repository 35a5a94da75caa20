"""Which rows of a window the model sees together: a function of the rows and the budgets alone, never of timing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchinfer.engines.protocol import Rows


@dataclass(frozen=True)
class Budget:
    """The bounds of one batch."""

    rows: int
    tokens: int | None = None
    """Rows times the longest of them; None where rows have no length."""


def batches(count: int, lengths: NDArray[np.int64] | None, budget: Budget) -> Iterator[Rows]:
    """Cut the `count` rows of a window into batches, each as positions in the window.

    Rows without lengths are taken in order. Rows with lengths, shape (count,), are sorted, longest first and equal ones in
    input order, so that little is padded and a batch that is too large for the device shows at once. A row longer than the
    token budget makes a batch of its own.
    """
    if lengths is None or budget.tokens is None:
        for start in range(0, count, budget.rows):
            yield slice(start, min(start + budget.rows, count))
        return
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order]
    start = 0
    while start < count:
        longest = max(1, int(sorted_lengths[start]))
        size = max(1, min(budget.rows, budget.tokens // longest))
        yield order[start : start + size]
        start += size


def positions(rows: Rows) -> NDArray[np.intp]:
    """A batch's rows as an array of positions."""
    return np.arange(rows.start, rows.stop, dtype=np.intp) if isinstance(rows, slice) else rows
