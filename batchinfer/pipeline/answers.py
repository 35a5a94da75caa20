"""What a model answered, by the key of the row's content: the last answers, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MOST_BYTES = 256 << 20
"""Of answers of one step that a worker keeps in memory: some 170,000 embeddings of 384 numbers."""


class Answers:
    """A bounded memory; what came first is forgotten first.

    Args:
        most_bytes: of answers that are kept.

    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._added = 0
        self._tables: OrderedDict[int, tuple[list[bytes], pa.Table]] = OrderedDict()
        self._places: dict[bytes, tuple[int, int]] = {}
        """By key, the table and the row in it."""

    def add(self, keys: Sequence[bytes], answers: pa.Table) -> None:
        """Keep some answers, a row for each key."""
        number = self._added
        self._added += 1
        self._tables[number] = (list(keys), answers)
        self._bytes += answers.nbytes
        for row, key in enumerate(keys):
            self._places[key] = (number, row)
        while self._bytes > self._most:
            self._forget()

    def _forget(self) -> None:
        number, (keys, answers) = self._tables.popitem(last=False)
        self._bytes -= answers.nbytes
        for key in keys:
            if self._places.get(key, (-1, 0))[0] == number:
                del self._places[key]

    def find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.intp], pa.Table | None]:
        """Positions of the keys that are known, and their answers in the same order; None where there are none."""
        by_table: dict[int, tuple[list[int], list[int]]] = {}
        for position, key in enumerate(keys):
            if (place := self._places.get(key)) is not None:
                positions, rows = by_table.setdefault(place[0], ([], []))
                positions.append(position)
                rows.append(place[1])
        if not by_table:
            return np.empty(0, np.intp), None
        found = [self._tables[number][1].take(pa.array(rows)) for number, (_, rows) in by_table.items()]
        at = np.concatenate([np.array(positions, np.intp) for positions, _ in by_table.values()])
        return at, pa.concat_tables(found)
