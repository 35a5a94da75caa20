"""What the trials came to: one line a fault. `python -m tests.chaos.table FILE…` joins what runs wrote with --table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
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

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Trial:
        return cls(**{**value, "findings": Findings(**value["findings"])})


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


if __name__ == "__main__":
    print(table([Trial.from_json(value) for name in sys.argv[1:] for value in json.loads(Path(name).read_text())]))
