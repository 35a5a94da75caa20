"""Drift: how far the predictions of an output are, as distributions, from those of a reference, and whether that is too far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from batchinfer.errors import RefusedError
from batchinfer.job.nearest import nearest
from batchinfer.report.column_profile import ColumnProfile
from batchinfer.report.distance import Distance, LabelShift, distance, shifts
from batchinfer.report.profile import Profile

_LABELS = 64


@dataclass(frozen=True)
class ColumnDrift:
    """One column of the output beside that of the reference."""

    column: str
    kind: str
    distance: Distance
    labels: tuple[LabelShift, ...]
    """The largest change first; empty for a column without labels."""
    means: tuple[float, float] | None
    """Of the reference's numbers and the output's; None where one of them has none."""
    means_of: str = "value"
    """What numbers these are: see `column_profile.Numbers.of`."""

    def to_json(self) -> dict[str, Any]:
        """A value for JSON."""
        return {
            "column": self.column,
            "kind": self.kind,
            **{key: _short(value) for key, value in asdict(self.distance).items()},
            "means": self.means,
            "means_of": self.means_of,
            "labels": [
                {"label": s.label, "before": _short(s.before), "now": _short(s.now), "change": _short(s.change)}
                for s in self.labels[:_LABELS]
            ],
        }


@dataclass(frozen=True)
class Thresholds:
    """What a column may differ by; None for anything."""

    total_variation: float | None = None
    hellinger: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value <= 1:
                raise RefusedError(f"{name}: a threshold of {value}; both distances lie between 0 and 1")


@dataclass(frozen=True)
class Drift:
    """The columns of an output beside those of a reference."""

    rows: int
    """Of the output that were looked at."""
    reference_rows: int
    columns: tuple[ColumnDrift, ...]
    """By total variation, the largest first."""
    missing: tuple[str, ...] = ()
    """Columns of the reference that the output lacks; beyond any threshold."""
    new: tuple[str, ...] = ()
    """Columns that the reference lacks."""
    thresholds: Thresholds = Thresholds()

    @property
    def exceeded(self) -> tuple[str, ...]:
        """What lies beyond the thresholds, in words."""
        return tuple(self._exceeded())

    @property
    def exit_code(self) -> int:
        """0, or 3 with something beyond the thresholds."""
        return 3 if self.exceeded else 0

    def to_json(self) -> dict[str, Any]:
        """A value for JSON."""
        return {
            "exit_code": self.exit_code,
            "rows": self.rows,
            "reference_rows": self.reference_rows,
            "thresholds": asdict(self.thresholds),
            "exceeded": list(self.exceeded),
            "missing": list(self.missing),
            "new": list(self.new),
            "columns": [c.to_json() for c in self.columns],
        }

    def __repr__(self) -> str:
        worst = ", ".join(f"{c.column} {c.distance.total_variation:.3f}" for c in self.columns[:3])
        return f"Drift({len(self.columns)} columns, total variation: {worst or '–'}; {len(self.exceeded)} beyond the thresholds)"

    def _exceeded(self) -> Iterator[str]:
        bounds = {name: bound for name, bound in asdict(self.thresholds).items() if bound is not None}
        if bounds:
            yield from (f"{name}: the output has no such column" for name in self.missing)
        for drifted in self.columns:
            for name, bound in bounds.items():
                value: float = getattr(drifted.distance, name)
                if value > bound:
                    yield f"{drifted.column}: {name.replace('_', ' ')} {value:.4f}, and {bound:g} is allowed"


def drift(
    output: Profile, reference: Profile, columns: Sequence[str] = (), thresholds: Thresholds | None = None
) -> Drift:
    """How far an output is from a reference.

    Args:
        output: its profile.
        reference: the profile of the output that is known to be good.
        columns: those that are compared, with their fields and items; all where none is named.
        thresholds: beyond which a column counts as drifted.

    Raises RefusedError where a column that is named isn't in both, and where one of the two has no row.

    """
    for name in columns:
        for where, there in (("output", output), ("reference", reference)):
            if there.column(name) is None:
                near = nearest(name, [c.name for c in there.columns])
                raise RefusedError(
                    f"the {where} has no column {name!r}; "
                    + (
                        f"did you mean {near!r}?"
                        if near
                        else f"it has {', '.join(repr(c.name) for c in there.columns[:12])}"
                    )
                )
    for where, there in (("output", output), ("reference", reference)):
        if not there.looked_at:
            raise RefusedError(f"the {where} has no row: there is no distribution to compare")
    before = {c.name: c for c in reference.columns if _asked(c.name, columns)}
    now = {c.name: c for c in output.columns if _asked(c.name, columns)}
    drifted = [d for name in now if name in before and (d := _column(before[name], now[name])) is not None]
    return Drift(
        output.looked_at,
        reference.looked_at,
        tuple(sorted(drifted, key=lambda d: -d.distance.total_variation)),
        tuple(name for name in before if name not in now),
        tuple(name for name in now if name not in before),
        thresholds or Thresholds(),
    )


def _asked(name: str, columns: Sequence[str]) -> bool:
    return not columns or any(name == c or name.startswith((f"{c}.", f"{c}[]")) for c in columns)


def _column(before: ColumnProfile, now: ColumnProfile) -> ColumnDrift | None:
    far = distance(before, now)
    if far is None:
        return None
    one, two = before.numbers, now.numbers
    means = (one.mean, two.mean) if one is not None and two is not None and one.of == two.of else None
    return ColumnDrift(now.name, now.kind, far, shifts(before, now), means, one.of if one else "value")


def _short(value: float | str) -> float | str:
    return value if isinstance(value, str) else round(value, 6)
