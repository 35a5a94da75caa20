"""What the quality gate says of a precision: its figures, their bounds, and whether they keep to what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from batchinfer.measure.intervals import Interval


@dataclass(frozen=True)
class Check:
    """One figure and what it must be; by its bound, not by its value, it passes or fails."""

    output: str
    metric: str
    value: float
    low: float
    high: float
    threshold: float
    at_most: bool = False
    """Whether the upper bound may be the threshold at most; else the lower bound must be at least that."""

    @property
    def passed(self) -> bool:
        """Whether the bound keeps to the threshold."""
        return self.high <= self.threshold if self.at_most else self.low >= self.threshold

    def __str__(self) -> str:
        word = "at most" if self.at_most else "at least"
        return (
            f"{self.output}: {self.metric} {self.value:.4f} (95 %: {self.low:.4f} to {self.high:.4f}; "
            f"{word} {self.threshold:g} is {'kept' if self.passed else 'not kept'})"
        )


@dataclass(frozen=True)
class Verdict:
    """What a comparison came to."""

    checks: tuple[Check, ...]
    rows: int
    """Compared."""
    left_out: int = 0
    """Rows of the sample that full precision has no good answer for."""
    lost: int = 0
    """Rows that full precision answers and the candidate doesn't: null, NaN or infinite values. None may be."""
    figures: Mapping[str, Interval] = field(default_factory=dict)
    """Reported besides, and decides nothing: agreement of nearest neighbours, error of scores."""

    @property
    def passed(self) -> bool:
        """Whether every check passed and no row was lost."""
        return self.lost == 0 and all(c.passed for c in self.checks)

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads, for settings, manifest and reports."""
        return {
            "passed": self.passed,
            "rows": self.rows,
            "left_out": self.left_out,
            "lost": self.lost,
            "checks": [{**asdict(c), "passed": c.passed} for c in self.checks],
            "figures": {name: list(figure) for name, figure in self.figures.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_json`."""
        checks = tuple(Check(**{k: v for k, v in c.items() if k != "passed"}) for c in value["checks"])
        figures = {name: Interval(*figure) for name, figure in value["figures"].items()}
        return cls(checks, value["rows"], value["left_out"], value["lost"], figures)

    def __str__(self) -> str:
        """Every figure in words."""
        said = [str(c) for c in self.checks]
        said += [f"{name} {f.value:.4f} ({f.low:.4f} to {f.high:.4f})" for name, f in self.figures.items()]
        said += [f"{self.lost:,} rows without a value where fp32 has one"] if self.lost else []
        said += [f"{self.left_out:,} rows left out"] if self.left_out else []
        return f"{'passed' if self.passed else 'failed'} on {self.rows:,} rows: {'; '.join(said)}"

    def refusal(self, step: str, precision: str, reference: str) -> str:
        """Why nothing is run at a precision that a step asks for, and what to do."""
        return (
            f"{step}.precision: {precision} disagrees with {reference} on the job's own rows, so nothing was run. "
            f"The gate {self}. Where only the interval is too wide, raise {step}.gate.sample; else write another precision or auto, "
            f"or {step}.gate.on_fail: fallback to take the next one that passes. {step}.gate: off runs it unseen"
        )
