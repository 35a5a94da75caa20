"""How two predictions of the same rows agree, column by column, added up over as many rows as there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from batchinfer.data.row_keys import row_keys
from batchinfer.report.column_profile import ColumnProfile

_MOST_PAIRS = 10_000
_OTHER, _NULL = "(other)", "(null)"


@dataclass(frozen=True)
class ColumnAgreement:
    """A column of two outputs, row by row."""

    column: str
    kind: str
    """`number`, `label`, `text`, `vector` or `other`."""
    rows: int
    """That both predicted."""
    agreeing: int
    """Of these; see `agreement` for what counts as that."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Of numbers `mean_difference`, `mean_absolute_difference`, `max_absolute_difference`; of vectors `mean_cosine` and `min_cosine`; of
    labels `kappa`. Over rows that have a value in both.
    """
    confusion: tuple[tuple[str, str, int], ...] = ()
    """Labels that differ: the first output's, the second's, and in how many rows; the most frequent first. A value that stands in few rows
    is `(other)`.
    """

    def to_json(self) -> dict[str, Any]:
        """A value for JSON."""
        figures = {name: round(value, 9) for name, value in self.figures.items()}
        return {**asdict(self), "figures": figures, "confusion": [list(pair) for pair in self.confusion[:100]]}


def agreement(
    column: str,
    first: ColumnProfile | None,
    kinds: tuple[pa.DataType, pa.DataType],
    labels: Collection[str],
    tolerance: float,
) -> Agreement:
    """What adds up the agreement of a column.

    Numbers agree where they differ by no more than `tolerance` times the spread of the first output's; a share of the number itself would
    mean nothing near zero, or far from it. Vectors agree where 1 − cosine is no more than `tolerance`. Everything else agrees where it is
    equal; so do two nulls, and two NaN.

    Args:
        column: its name.
        first: the profile of the first output's column; None where there is none.
        kinds: the types of both.
        labels: which values may be named.
        tolerance: see above.

    """
    if all(pt.is_floating(k) or pt.is_decimal(k) for k in kinds) or (
        any(pt.is_floating(k) for k in kinds) and all(_is_number(k) for k in kinds)
    ):
        return _Numbers(column, first, tolerance)
    if all(_is_number(k) for k in kinds):
        return _Numbers(column, first, 0.0, frozenset(labels))
    if all(_is_vector(k) for k in kinds):
        return _Vectors(column, tolerance)
    if all(pt.is_string(k) or pt.is_large_string(k) or pt.is_boolean(k) for k in kinds):
        return _Labels(column, frozenset(labels))
    return _Others(column)


class Agreement:
    """Adds up one column. `add` gives for each row how much it differs, float64 of shape (n,): 0 for equal values, at most 1."""

    kind = "other"

    def __init__(self, column: str) -> None:
        self.column = column
        self.rows = self.agreeing = 0

    def add(self, first: pa.Array, second: pa.Array) -> NDArray[np.float64]:
        """Take in rows that both outputs predicted: arrays of one length, row by row the same."""
        there, here = first.is_valid(), second.is_valid()
        both = np.asarray(pc.and_(there, here).to_numpy(zero_copy_only=False), bool)
        difference = np.asarray(pc.xor(there, here).to_numpy(zero_copy_only=False), np.float64)
        mask = pa.array(both)
        difference[both], agree = self._compare(first.filter(mask), second.filter(mask))
        self.rows += len(both)
        self.agreeing += int(agree.sum()) + int((~both & (difference == 0)).sum())
        return difference

    def result(self) -> ColumnAgreement:
        """What was added up."""
        return ColumnAgreement(self.column, self.kind, self.rows, self.agreeing, self._figures(), self._confusion())

    def _compare(self, first: pa.Array, second: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Of values that aren't null how much each pair differs, and whether it agrees."""
        raise NotImplementedError

    def _figures(self) -> dict[str, float]:
        return {}

    def _confusion(self) -> tuple[tuple[str, str, int], ...]:
        return ()


class _Others(Agreement):
    """Values that are equal or not."""

    def _compare(self, first: pa.Array, second: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        if first.type != second.type:
            second = second.cast(first.type, safe=False) if _casts(second, first.type) else second
        one, two = (row_keys([a]) if len(a) else [] for a in (first, second))
        same = np.array([a == b for a, b in zip(one, two, strict=True)], bool)
        return (~same).astype(np.float64), same


class _Confused(Agreement):
    """With a table of which labels stand for which."""

    def __init__(self, column: str, labels: Collection[str]) -> None:
        super().__init__(column)
        self._named = labels
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._marginals: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._known = self._same = 0

    def _confuse(self, first: pa.Array, second: pa.Array, same: NDArray[np.bool_]) -> None:
        one, two = (pc.cast(a, pa.string()) for a in (first, second))
        self._known, self._same = self._known + len(same), self._same + int(same.sum())
        for counts, texts in zip(self._marginals, (one, two), strict=True):
            for entry in pc.value_counts(texts).to_pylist():
                counts[self._name(entry["values"])] += entry["counts"]
        mask = pa.array(~same)
        for a, b in zip(one.filter(mask).to_pylist(), two.filter(mask).to_pylist(), strict=True):
            pair = (self._name(a), self._name(b))
            self._pairs[pair if pair in self._pairs or len(self._pairs) < _MOST_PAIRS else (_OTHER, _OTHER)] += 1

    def _name(self, text: str) -> str:
        return text if text in self._named else _OTHER

    def _figures(self) -> dict[str, float]:
        """Cohen, "A coefficient of agreement for nominal scales", 1960: 0 for agreement as by chance, 1 for full agreement.

        None where values have no names, as their chance isn't known then.
        """
        one, two = self._marginals
        if not self._known or one[_OTHER] or two[_OTHER]:
            return {}
        chance = sum(count * two[name] for name, count in one.items()) / self._known**2
        return {"kappa": (self._same / self._known - chance) / (1 - chance) if chance < 1 else 1.0}

    def _confusion(self) -> tuple[tuple[str, str, int], ...]:
        return (
            tuple((a, b, n) for (a, b), n in sorted(self._pairs.items(), key=lambda p: (-p[1], p[0])))
            if self._named
            else ()
        )


class _Labels(_Confused):
    """Texts and truth values."""

    def __init__(self, column: str, labels: Collection[str]) -> None:
        super().__init__(column, labels)
        self.kind = "label" if labels else "text"

    def _compare(self, first: pa.Array, second: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        one, two = (pc.cast(a, pa.large_string()) for a in (first, second))
        same = np.asarray(pc.equal(one, two).to_numpy(zero_copy_only=False), bool)
        self._confuse(first, second, same)
        return (~same).astype(np.float64), same


class _Numbers(_Confused):
    """Numbers; whole ones of few values are labels."""

    def __init__(
        self, column: str, profile: ColumnProfile | None, tolerance: float, labels: Collection[str] = frozenset()
    ) -> None:
        super().__init__(column, labels)
        self.kind = "label" if labels else "number"
        known = None if profile is None else profile.numbers
        self._scale = (known.std or abs(known.mean) or 1.0) if known is not None else 1.0
        self._tolerance = tolerance * self._scale
        self._count, self._sum, self._absolute, self._most = 0, 0.0, 0.0, 0.0

    def _compare(self, first: pa.Array, second: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        one, two = (
            np.asarray(a.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)) for a in (first, second)
        )
        with np.errstate(invalid="ignore", over="ignore"):
            by = two - one
            same = (one == two) | (np.isnan(one) & np.isnan(two))
            by[same] = 0.0
            far = np.abs(by)
            difference = np.where(np.isfinite(far), far / (far + self._scale), 1.0)
        finite = by[np.isfinite(one) & np.isfinite(two) & np.isfinite(by)]
        self._count += finite.size
        self._sum += float(finite.sum())
        self._absolute += float(np.abs(finite).sum())
        self._most = max(self._most, float(np.abs(finite).max(initial=0.0)))
        if self._named:  # a class by its number is no nearer to the next one
            self._confuse(first, second, same)
            difference = (~same).astype(np.float64)
        return difference, same | (far <= self._tolerance)

    def _figures(self) -> dict[str, float]:
        count = self._count
        return (
            {
                "mean_difference": self._sum / count,
                "mean_absolute_difference": self._absolute / count,
                "max_absolute_difference": self._most,
                **(super()._figures() if self._named else {}),
            }
            if count
            else {}
        )


class _Vectors(Agreement):
    """Lists of numbers, compared by the cosine of the angle between them."""

    kind = "vector"

    def __init__(self, column: str, tolerance: float) -> None:
        super().__init__(column)
        self._tolerance = tolerance
        self._count, self._sum, self._least = 0, 0.0, 1.0

    def _compare(self, first: pa.Array, second: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        cosine = cosines(first, second)
        self._count += cosine.size
        self._sum += float(cosine.sum())
        self._least = min(self._least, float(cosine.min(initial=1.0)))
        return (1 - cosine) / 2, cosine >= 1 - self._tolerance - 1e-12

    def _figures(self) -> dict[str, float]:
        return {"mean_cosine": self._sum / self._count, "min_cosine": self._least} if self._count else {}


def cosines(first: pa.Array, second: pa.Array) -> NDArray[np.float64]:
    """Cosine of each two vectors, float64 of shape (n,).

    1 for two that are equal, of norm 0 or with NaN too; else 0 where one is of norm 0, of another length, or holds what is no number.
    """
    lengths, others = (np.asarray(pc.list_value_length(a), np.int64) for a in (first, second))
    made = np.zeros(len(first))
    alike = lengths == others
    made[alike & (lengths == 0)] = 1.0
    alike &= lengths > 0
    if not alike.any():
        return made
    mask = pa.array(alike)
    one, two = (_flat(a.filter(mask)) for a in (first, second))
    starts = np.concatenate(([0], np.cumsum(lengths[alike])[:-1]))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        product, one2, two2 = (np.add.reduceat(values, starts) for values in (one * two, one * one, two * two))
        cosine = product / np.sqrt(one2 * two2)
    equal = np.logical_and.reduceat((one == two) | (np.isnan(one) & np.isnan(two)), starts)
    made[alike] = np.where(equal, 1.0, np.where(np.isfinite(cosine), np.clip(cosine, -1.0, 1.0), 0.0))
    return made


def _flat(vectors: pa.Array) -> NDArray[np.float64]:
    return np.asarray(vectors.flatten().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind))


def _is_vector(kind: pa.DataType) -> bool:
    listed = pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)
    return bool(listed and _is_number(kind.value_type))


def _casts(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        values.cast(kind, safe=False)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True
