"""What is known of one column's distribution, as a value that JSON holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from batchinfer.report.histogram import Histogram

Kind = Literal["number", "label", "text", "vector", "list", "struct", "other"]


@dataclass(frozen=True)
class Numbers:
    """Finite numbers of a column, or of what is measured of its values."""

    of: str
    """`value`; of texts `characters`, of bytes `bytes`, of lists `items`, of vectors `norm`."""
    mean: float
    std: float
    """Of the population."""
    min: float
    max: float
    quantiles: Mapping[str, float]
    """By names such as `p95`."""
    histogram: Histogram

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads."""
        figures = {key: getattr(self, key) for key in ("of", "mean", "std", "min", "max")}
        return {**figures, "quantiles": dict(self.quantiles), "histogram": self.histogram.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Numbers:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError for what isn't one."""
        mean, std, low, high = (float(value[key]) for key in ("mean", "std", "min", "max"))
        quantiles = {str(k): float(v) for k, v in value["quantiles"].items()}
        return cls(str(value["of"]), mean, std, low, high, quantiles, Histogram.from_json(value["histogram"]))


@dataclass(frozen=True)
class ColumnProfile:
    """The distribution of one column, of a field of a struct (`answer.label`), or of the items of a list (`tags[]`)."""

    name: str
    type: str
    """As Arrow names it."""
    kind: Kind
    """`label`: few different values; `text`: many, of which only the lengths are known; `vector`: lists of numbers of one length."""
    rows: int
    """Values that were looked at, nulls included."""
    nulls: int = 0
    nan: int = 0
    """Numbers that are NaN; of vectors, those with a NaN, an infinite number or a null in them."""
    infinite: int = 0
    numbers: Numbers | None = None
    """None where there are no finite ones."""
    labels: Mapping[str, int] | None = None
    """Rows by label, the most frequent first; only of labels that stand in more than one row. None for a column without labels."""
    unlabelled: int = 0
    """Rows whose value is none of these, and not null."""
    dimension: int | None = None
    """Of vectors."""
    means: tuple[float, ...] = ()
    """Of each component of the vectors, at most of the first 1,024."""
    directions: tuple[Histogram, ...] = ()
    """Of the vectors' products with fixed vectors of random signs: vectors that turn show in them, of whatever norm."""

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads; what says nothing is left out."""
        value: dict[str, Any] = {"name": self.name, "type": self.type, "kind": self.kind, "rows": self.rows}
        value |= {key: n for key in ("nulls", "nan", "infinite", "unlabelled") if (n := getattr(self, key))}
        if self.numbers is not None:
            value["numbers"] = self.numbers.to_json()
        if self.labels is not None:
            value["labels"] = dict(self.labels)
        if self.dimension is not None:
            value |= {"dimension": self.dimension, "means": list(self.means)}
            value["directions"] = [h.to_json() for h in self.directions]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ColumnProfile:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError for what isn't one."""
        if value["kind"] not in get_args(Kind):
            raise ValueError(f"unknown kind {value['kind']!r}")
        labels, numbers, dimension = value.get("labels"), value.get("numbers"), value.get("dimension")
        return cls(
            str(value["name"]),
            str(value["type"]),
            value["kind"],
            int(value["rows"]),
            nulls=int(value.get("nulls", 0)),
            nan=int(value.get("nan", 0)),
            infinite=int(value.get("infinite", 0)),
            numbers=None if numbers is None else Numbers.from_json(numbers),
            labels=None if labels is None else {str(k): int(v) for k, v in labels.items()},
            unlabelled=int(value.get("unlabelled", 0)),
            dimension=None if dimension is None else int(dimension),
            means=tuple(map(float, value.get("means", ()))),
            directions=tuple(map(Histogram.from_json, value.get("directions", ()))),
        )
