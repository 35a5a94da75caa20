"""Confidence intervals of what a sample of a job's rows tells, all of them two-sided at 95 %.

A sample without replacement of a job that isn't much larger knows more than one of a large job: every function takes the number
of rows that the sample speaks for (`population`), and where the sample is all of them, the interval is the value itself
(Cochran, Sampling Techniques, 3rd edition, section 2.6: the finite population correction).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054
_LEVEL = 0.95
_RESAMPLES = 1000
_MOST_ROWS = 4096
"""Rows up to which a mean is resampled; above, the normal interval is as good and costs nothing."""
_SEED = 20260
"""Fixed, so that the same sample gives the same verdict."""


class Interval(NamedTuple):
    """An estimate and its bounds."""

    value: float
    low: float
    high: float


def proportion(successes: int, n: int, population: int) -> Interval:
    """Wilson's score interval (Wilson 1927, Journal of the American Statistical Association 22:209)."""
    share = successes / n
    return Interval(share, *_wilson(share, _effective(n, population)))


def drop(reference: NDArray[np.bool_], candidate: NDArray[np.bool_], population: int) -> Interval:
    """By how much a share fell, of pairs: arrays of shape (n,), true where the row is right.

    Newcombe's hybrid score interval for paired shares (Newcombe 1998, Statistics in Medicine 17:2635, method 10).
    """
    n = len(reference)
    first, second = float(reference.mean()), float(candidate.mean())
    size = _effective(n, population)
    (low1, high1), (low2, high2) = _wilson(first, size), _wilson(second, size)
    together = first * (1 - first) * second * (1 - second)
    phi = (float((reference & candidate).mean()) - first * second) / math.sqrt(together) if together > 0 else 0.0
    difference = first - second
    under = _hybrid(first - low1, high2 - second, phi)
    over = _hybrid(high1 - first, second - low2, phi)
    return Interval(difference, difference - under, difference + over)


def mean(values: NDArray[np.float64], population: int) -> Interval:
    """Of the mean of values of shape (n,): the bootstrap-t interval, which keeps its level for skewed values where the normal
    and the percentile intervals don't (Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 12.5).
    """
    n = len(values)
    centre, spread = float(values.mean()), float(values.std())
    correction = math.sqrt(max(0.0, (population - n) / (population - 1))) if population > 1 else 0.0
    error = spread / math.sqrt(n) * correction
    if error == 0:
        return Interval(centre, centre, centre)
    if n > _MOST_ROWS:
        return Interval(centre, centre - _Z * error, centre + _Z * error)
    picked = values[np.random.default_rng(_SEED).integers(0, n, (_RESAMPLES, n))]
    spreads = picked.std(axis=1)
    varied = spreads > 0  # a resample of equal values has no t; it is drawn where all but a few are equal
    t = (picked.mean(axis=1)[varied] - centre) / (spreads[varied] / math.sqrt(n))
    low, high = np.quantile(t, [1 - (1 + _LEVEL) / 2, (1 + _LEVEL) / 2])
    # Never narrower than the normal one on either side: few differing values leave few resamples that differ.
    return Interval(centre, centre - max(float(high), _Z) * error, centre - min(float(low), -_Z) * error)


def low_percentile(values: NDArray[np.float64], share: float, population: int) -> Interval:
    """Of a low percentile of values of shape (n,): two order statistics, whatever the distribution.

    By the binomial distribution of how many values lie below it (Hahn and Meeker 1991, Statistical Intervals, section 5.2). The
    1st percentile has a lower bound of this level from 368 rows on; with fewer the bound is the least value of the sample.
    """
    ordered = np.sort(values)
    n = len(ordered)
    value = float(np.quantile(ordered, share))
    if n >= population:
        return Interval(value, value, value)
    tail = (1 - _LEVEL) / 2
    below = np.cumsum(_binomial(n, share))
    rank_low = int(np.searchsorted(below, tail, side="right"))  # values that lie below at this level, at least
    rank_high = int(np.searchsorted(below, 1 - tail, side="left"))
    low, high = float(ordered[max(0, rank_low - 1)]), float(ordered[min(n - 1, rank_high)])
    return Interval(value, min(low, value), max(high, value))


def _effective(n: int, population: int) -> float:
    """The size of a sample with replacement that knows as much."""
    return math.inf if n >= population else n * (population - 1) / (population - n)


def _wilson(share: float, n: float) -> tuple[float, float]:
    if math.isinf(n):
        return share, share
    square = _Z * _Z / n
    centre = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / n + square / n / 4)
    # The ends are exact where no row, or every row, counts: rounding must not move them.
    return 0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half)


def _hybrid(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))


def _binomial(n: int, share: float) -> NDArray[np.float64]:
    """Probabilities of 0 to n successes."""
    k = np.arange(1, n + 1)
    steps = np.log((n - k + 1) / k) + math.log(share) - math.log1p(-share)
    return np.exp(np.concatenate([[0.0], np.cumsum(steps)]) + n * math.log1p(-share))
