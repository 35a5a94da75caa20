"""Histograms on a grid that depends on no data, so that any two can be compared.

A bin's edges are multiples of a power of two. However narrow the bins of two histograms are, those of the finer one lie wholly inside
those of the coarser one, so both can be brought to one grid without guessing how values lie inside a bin. Quantiles as edges would need
that guess wherever two profiles were made at different times; bins of a fixed number between minimum and maximum would, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BINS = 64
"""Bins that hold a value; those between that hold none aren't stored."""
_BINS_OF_BULK = 16
"""Bins at least that the middle nine tenths of the values spread over, where the bound above allows it."""
_FINEST = 2.0**-1074
_LARGEST = 2.0**1022
"""Values beyond it count as it, so that edges are finite."""
_WHOLE = 2.0**52


@dataclass(frozen=True)
class Histogram:
    """How many values lie in each bin `[left, left + width)`."""

    width: float
    """A power of two."""
    lefts: tuple[float, ...]
    """Left edges of the bins that hold a value, ascending; multiples of the width."""
    counts: tuple[int, ...]

    def coarsened(self, width: float) -> Histogram:
        """The same values in bins of another width, a power of two that is no smaller."""
        lefts, counts = _merged(_floor(np.array(self.lefts), width), np.array(self.counts, np.int64))
        return Histogram(width, tuple(lefts.tolist()), tuple(counts.tolist()))

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads."""
        return {"width": self.width, "lefts": list(self.lefts), "counts": list(self.counts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Histogram:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError for what isn't one."""
        made = cls(float(value["width"]), tuple(map(float, value["lefts"])), tuple(map(int, value["counts"])))
        mantissa, _ = np.frexp(made.width)
        lefts = np.array(made.lefts, np.float64)
        sound = mantissa == 0.5 and len(made.lefts) == len(made.counts) and min(made.counts, default=0) >= 0
        if not sound or not np.isfinite(lefts).all() or not np.array_equal(_floor(lefts, made.width), lefts):
            raise ValueError("not a histogram with edges at multiples of a power of two")
        return made


def histogram(values: NDArray[np.float64]) -> Histogram:
    """Of finite values, float64 of shape (n,): bins as narrow as the bulk of the values asks for and `MOST_BINS` allows."""
    if not values.size:
        return Histogram(1.0, (), ())
    values = np.clip(values, -_LARGEST, _LARGEST)
    width = _width(values)
    lefts, counts = _merged(_floor(values, width), np.ones(values.size, np.int64))
    while lefts.size > MOST_BINS:
        width *= 2
        lefts, counts = _merged(_floor(lefts, width), counts)
    return Histogram(width, tuple(lefts.tolist()), tuple(counts.tolist()))


def together(first: Histogram, second: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts of both in the bins that either has, on the coarser of the two grids: float64 of shape (bins,) each."""
    width = max(first.width, second.width)
    one, two = first.coarsened(width), second.coarsened(width)
    lefts = np.union1d(one.lefts, two.lefts)
    return _placed(one, lefts), _placed(two, lefts)


def _placed(made: Histogram, lefts: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = np.zeros(lefts.size)
    counts[np.searchsorted(lefts, made.lefts)] = made.counts
    return counts


def _width(values: NDArray[np.float64]) -> float:
    """A power of two that cuts the spread of the bulk into enough bins; of equal values one that tells them from near ones."""
    low, least, most, high = np.quantile(values, (0.01, 0.05, 0.95, 0.99), method="nearest")
    for start, stop in ((least, most), (low, high), (values.min(), values.max())):
        spread = stop / 2 - start / 2  # the difference of two finite values may not be finite
        if spread > 0:
            return float(np.ldexp(1.0, max(-1074, int(np.frexp(spread)[1]) - int(np.log2(_BINS_OF_BULK)))))
    return max(_FINEST, float(np.ldexp(1.0, int(np.frexp(values[0])[1]) - 20)))


def _floor(values: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """The left edge of each value's bin. A value of more than 52 bits of bins is a multiple of the width itself."""
    with np.errstate(over="ignore", invalid="ignore"):
        places = np.floor(values / width)
        places[(values < 0) & (places == 0)] = -1  # a quotient too small for a float
        edges = places * width
    return np.where(np.abs(values) >= _WHOLE * width, values, edges) + 0.0  # and no negative zero


def _merged(lefts: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    unique, inverse = np.unique(lefts, return_inverse=True)
    return unique, np.bincount(inverse, weights=counts, minlength=unique.size).astype(np.int64)
