"""What a graph's layers are given, so that the ranges in which they round it to 8 bits are known before the job runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Calibration:
    """See above."""

    made_of: str
    """All that decides about `feeds`, besides the model's files."""
    feeds: Callable[[], Iterable[Mapping[str, NDArray[Any]]]]
    """Rows in batches, as the graph takes them. Raises ModelError for rows that it can't be fed with."""
