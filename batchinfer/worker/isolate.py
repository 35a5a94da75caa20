"""Find the rows that make a batch fail, and get the results of all others, by cutting it into ever smaller groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from batchinfer.errors import BatchinferError
from batchinfer.worker.context import RowError
from batchinfer.worker.failures import row_error

T = TypeVar("T")

GROUPS = 4
"""As many calls as halves need, in half as many steps: a step costs a process where the row kills it."""


@dataclass
class Isolated(Generic[T]):
    """What came of rows that failed together."""

    results: list[tuple[NDArray[np.intp], T]] = field(default_factory=list)
    """Rows that succeeded together, and their result."""
    dead: list[tuple[int, RowError]] = field(default_factory=list)
    calls: int = 0
    """Attempts made: at most 2 ⌈log2(rows)⌉ + 1 for each bad row."""


def isolate(attempt: Callable[[NDArray[np.intp]], T], rows: NDArray[np.intp]) -> Isolated[T]:
    """Cut `rows`, which failed together, until each bad row stands alone and has failed alone twice.

    Errors of batchinfer's own (a model that breaks its contract, storage that is away) are no row's fault and are raised.
    """
    found: Isolated[T] = Isolated()
    pending = [rows]  # each of these has failed once as it stands
    while pending:
        group = pending.pop()
        for part in np.array_split(group, min(GROUPS, len(group))):
            found.calls += 1
            try:
                result = attempt(part)
            except BatchinferError:
                raise
            except BaseException as e:  # noqa: BLE001 - a model may raise anything, and what it raises is the row's error
                if len(group) == 1:
                    found.dead.append((int(part[0]), row_error(e, attempts=2)))
                else:
                    pending.append(part)
            else:
                found.results.append((part, result))
    return found
