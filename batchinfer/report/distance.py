"""How far two profiles of a column are apart: total variation and Hellinger distance of the distributions that they hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchinfer.report.column_profile import ColumnProfile
from batchinfer.report.histogram import Histogram, together

_NONE = Histogram(2.0**-1074, (), ())


@dataclass(frozen=True)
class Distance:
    """Both lie between 0, for equal distributions, and 1, for such that share no value."""

    total_variation: float
    """The most by which the shares of any set of values differ: half the sum of the absolute differences.

    Levin, Peres, Wilmer, "Markov Chains and Mixing Times", proposition 4.2.
    """
    hellinger: float
    """√(1 − Σ√(p·q)): more sensitive than total variation to values that were rare. TV²/2 ≤ H² ≤ TV.

    Hellinger, "Neue Begründung der Theorie quadratischer Formen von unendlichvielen Veränderlichen", 1909; Pollard, "A User's Guide to
    Measure Theoretic Probability", section 3.3.
    """
    by_chance: float
    """The total variation to be expected of two samples of one distribution, given how many rows they have: less says nothing."""
    note: str = ""
    """What could be compared only in part, and why."""


@dataclass(frozen=True)
class LabelShift:
    """How the share of a label changed."""

    label: str
    """`(null)` for nulls, `(other)` for what is none of the labels."""
    before: float
    """Share of the reference's rows."""
    now: float

    @property
    def change(self) -> float:
        """In share of the rows."""
        return self.now - self.before


def distance(reference: ColumnProfile, output: ColumnProfile) -> Distance | None:
    """The distance of a column of an output from that of a reference; None where one of them has no row.

    Nulls, NaN and infinite numbers are values of their own. Labels are compared where both have them, else numbers: the values, or the
    lengths of texts and lists. Vectors are compared by the mean over fixed random directions (see `columns.directions`).
    """
    if not reference.rows or not output.rows:
        return None
    if not (_known(reference) and _known(output)):  # nulls alone on one side
        return _of(reference, output, _cells(reference), _cells(output))
    if reference.dimension is not None and output.dimension is not None:
        if reference.dimension != output.dimension:
            return Distance(1.0, 1.0, 0.0, f"{output.dimension} components instead of {reference.dimension}")
        return _of_vectors(reference, output)
    if reference.labels is not None and output.labels is not None:
        return _of(reference, output, *_labelled(reference, output))
    one, two = reference.numbers, output.numbers
    if reference.kind == output.kind and one is None and two is None:
        return _of(reference, output, _cells(reference), _cells(output))
    if reference.kind != output.kind and (one is None or two is None or one.of != two.of):
        return Distance(1.0, 1.0, 0.0, f"{_what(output)} instead of {_what(reference)}")
    note = "only their lengths are compared" if one is not None and one.of in ("characters", "bytes", "items") else ""
    cells = together(one.histogram if one else _NONE, two.histogram if two else _NONE)
    return _of(reference, output, *cells, note=note)


def shifts(reference: ColumnProfile, output: ColumnProfile) -> tuple[LabelShift, ...]:
    """The labels by how much their share changed, the largest change first; none where one of the columns has no labels or rows."""
    if reference.labels is None or output.labels is None or not (reference.rows and output.rows):
        return ()
    names = dict.fromkeys([*reference.labels, *output.labels])
    made = [LabelShift(name, _share(reference, name), _share(output, name)) for name in names]
    for name, count in (("(other)", "unlabelled"), ("(null)", "nulls")):
        before, now = getattr(reference, count) / reference.rows, getattr(output, count) / output.rows
        made += [LabelShift(name, before, now)] if before or now else []
    return tuple(sorted(made, key=lambda s: (-abs(s.change), s.label)))


def _share(column: ColumnProfile, label: str) -> float:
    return (column.labels or {}).get(label, 0) / column.rows


def _what(column: ColumnProfile) -> str:
    return f"{column.kind} ({column.type})"


def _known(column: ColumnProfile) -> int:
    """Values that aren't null."""
    return column.rows - column.nulls


def _cells(column: ColumnProfile) -> NDArray[np.float64]:
    """All known values as one cell."""
    return np.array([float(_known(column) - column.nan - column.infinite)])


def _labelled(one: ColumnProfile, two: ColumnProfile) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows of both by label, and those of other values as one cell. A label that the other doesn't name has no row there."""
    first, second = dict(one.labels or {}), dict(two.labels or {})
    names = dict.fromkeys([*first, *second])
    return (
        np.array([*(first.get(n, 0) for n in names), one.unlabelled], np.float64),
        np.array([*(second.get(n, 0) for n in names), two.unlabelled], np.float64),
    )


def _of_vectors(reference: ColumnProfile, output: ColumnProfile) -> Distance:
    each = [
        _of(reference, output, *together(one, two))
        for one, two in zip(reference.directions, output.directions, strict=True)
    ]
    tv, hellinger, chance = (
        sum(values) / len(each)
        for values in zip(*((d.total_variation, d.hellinger, d.by_chance) for d in each), strict=True)
    )
    return Distance(tv, hellinger, chance)


def _of(
    reference: ColumnProfile,
    output: ColumnProfile,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    note: str = "",
) -> Distance:
    """The distance by counts in common cells, float64 of shape (cells,), and what is no value of either."""
    one = np.concatenate((first, [reference.nulls, reference.nan, reference.infinite]))
    two = np.concatenate((second, [output.nulls, output.nan, output.infinite]))
    rows = one.sum(), two.sum()
    if not all(rows):
        return Distance(1.0, 1.0, 0.0, note)
    p, q = one / rows[0], two / rows[1]
    pooled = (one + two) / sum(rows)
    error = np.sqrt(pooled * (1 - pooled) * (1 / rows[0] + 1 / rows[1]))
    return Distance(
        float(min(1.0, abs(p - q).sum() / 2)),
        math.sqrt(max(0.0, 1 - float(np.sqrt(p * q).sum()))),
        float(min(1.0, error.sum() * math.sqrt(2 / math.pi) / 2)),  # the mean of |normal| is √(2/π) of its deviation
        note,
    )
