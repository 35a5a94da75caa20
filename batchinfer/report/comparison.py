"""What a comparison of two outputs of the same input came to."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from batchinfer.report.agreement import ColumnAgreement
from batchinfer.report.drift import Drift


@dataclass(frozen=True)
class RowCounts:
    """The rows of two outputs by where they are predicted."""

    both: int = 0
    only_first: int = 0
    only_second: int = 0
    dead_in_first: int = 0
    """Of `only_second`, those that are dead letters of the first output."""
    dead_in_second: int = 0
    """Of `only_first`, those that are dead letters of the second output."""
    dead_in_both: int = 0

    @property
    def judged(self) -> int:
        """Rows that agreement is a share of: a row that is dead in one of the outputs agrees in no column."""
        return self.both + self.dead_in_first + self.dead_in_second


@dataclass(frozen=True)
class DifferentRow:
    """A row that both outputs predicted."""

    difference: float
    """Of the column that differs most, between 0 and 1."""
    column: str
    key: str | None
    file: str | None
    """Of the input; None where rows were found by their key alone."""
    row: int | None
    """In the file, from 0."""
    values: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Both predictions of each column as text; empty unless they were asked for."""

    def to_json(self) -> dict[str, Any]:
        """A value for JSON."""
        value = {**asdict(self), "difference": round(self.difference, 9)}
        if not self.values:
            del value["values"]
        return value


@dataclass(frozen=True)
class Bounds:
    """What a comparison must keep to; None for anything."""

    min_agreement: float | None = None
    """Share of the rows, in each column."""
    max_drift: float | None = None
    """Total variation, in each column."""


@dataclass(frozen=True)
class Comparison:
    """Two outputs of the same input, row by row and as distributions."""

    first: str
    second: str
    """The outputs."""
    joined_by: str
    """How the rows of one were found in the other, in words."""
    rows: RowCounts
    columns: tuple[ColumnAgreement, ...]
    """In the order of the first output."""
    drift: Drift | None
    """Of the second output from the first; None where one of them has no row."""
    most_different: tuple[DifferentRow, ...]
    missing: tuple[str, ...] = ()
    """Columns of the first output that the second lacks."""
    new: tuple[str, ...] = ()
    """Columns that the first lacks."""
    notes: tuple[str, ...] = ()
    """What the reader should know, such as that an output has not come to its end."""
    tolerance: float = 0.0
    bounds: Bounds = field(default_factory=Bounds)

    def share(self, column: ColumnAgreement) -> float:
        """In which share of the rows a column agrees: of those that both predicted or one of them has as dead letter."""
        judged = self.rows.judged
        return column.agreeing / judged if judged else 1.0

    @property
    def exceeded(self) -> tuple[str, ...]:
        """What lies beyond the bounds, in words."""
        return tuple(self._exceeded())

    @property
    def exit_code(self) -> int:
        """0, or 3 with something beyond the bounds."""
        return 3 if self.exceeded else 0

    def to_json(self) -> dict[str, Any]:
        """A value for JSON."""
        return {
            "exit_code": self.exit_code,
            "first": self.first,
            "second": self.second,
            "joined_by": self.joined_by,
            "rows": asdict(self.rows),
            "tolerance": self.tolerance,
            "bounds": asdict(self.bounds),
            "exceeded": list(self.exceeded),
            "missing": list(self.missing),
            "new": list(self.new),
            "notes": list(self.notes),
            "columns": [{**c.to_json(), "agreement": round(self.share(c), 9)} for c in self.columns],
            "drift": [c.to_json() for c in self.drift.columns] if self.drift is not None else [],
            "most_different": [row.to_json() for row in self.most_different],
        }

    def _exceeded(self) -> Iterator[str]:
        least, most, rows = self.bounds.min_agreement, self.bounds.max_drift, self.rows
        if least is not None or most is not None:
            yield from (f"{name}: the second output has no such column" for name in self.missing)
        if least is not None:
            if not rows.both and (rows.only_first or rows.only_second):
                yield "no row is predicted by both outputs"
            for column in self.columns:
                if (share := self.share(column)) < least:
                    yield f"{column.column}: {percent(share)} of the rows agree, and {percent(least)} are asked for"
        for drifted in self.drift.columns if self.drift is not None and most is not None else ():
            if most is not None and drifted.distance.total_variation > most:
                yield f"{drifted.column}: total variation {drifted.distance.total_variation:.4f}, and {most:g} is allowed"

    def __repr__(self) -> str:
        shares = ", ".join(f"{c.column} {percent(self.share(c))}" for c in self.columns)
        return f"Comparison({self.rows.both:,} rows in both, agreement: {shares or '–'}; {len(self.exceeded)} beyond the bounds)"

    def _repr_html_(self) -> str:
        far = {c.column: c.distance.total_variation for c in self.drift.columns} if self.drift is not None else {}
        rows = "".join(
            f"<tr><td>{html.escape(c.column)}</td><td>{c.kind}</td><td>{percent(self.share(c))}</td>"
            f"<td>{f'{far[c.column]:.3f}' if c.column in far else '–'}</td></tr>"
            for c in self.columns
        )
        return (
            f"<code>{html.escape(self.first)}</code> and <code>{html.escape(self.second)}</code>: {self.rows.both:,} rows in both"
            f"<table><tr><th>column</th><th>kind</th><th>agreement</th><th>total variation</th></tr>{rows}</table>"
        )


def percent(share: float) -> str:
    """Such as `99.12 %`; 100 % only where all of it is."""
    return f"{min(share, 0.9999) * 100:.2f} %" if share < 1 else "100 %"
