"""What the trials came to: one line a fault."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from tests.chaos.place import Findings


@dataclass(frozen=True)
class Trial:
    """One fault, once."""

    fault: str
    seed: int
    findings: Findings
    most_redo: float | None
    """Rows that may be predicted again; None where the fault costs none by itself."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


TRIALS: list[Trial] = []
"""Of this test session."""


def table(trials: list[Trial]) -> str:
    """The trials as a Markdown table, in the order in which the faults came first."""
    order = {t.fault: n for n, t in reversed(list(enumerate(trials)))}
    lines = [
        "| fault | trials | lost | duplicated | changed | redone rows, most (allowed) | seconds, most |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault, group in groupby(sorted(trials, key=lambda t: order[t.fault]), key=lambda t: t.fault):
        some = list(group)
        lost, duplicated, changed = (
            sum(getattr(t.findings, name) for t in some) for name in ("lost", "duplicated", "changed")
        )
        worst = max(some, key=lambda t: t.findings.redo)
        allowed = "" if worst.most_redo is None else f" ({worst.most_redo:.0f})"
        slowest = max(t.seconds for t in some)
        lines.append(
            f"| {fault} | {len(some)} | {lost} | {duplicated} | {changed} | {worst.findings.redo}{allowed} | {slowest:.0f} |"
        )
    return "\n".join(lines)
