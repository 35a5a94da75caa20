"""Rounds of a benchmark: kept in a file, and what they come to. Ratios are of two programs of one round, so that what the machine did
in it meets both.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
"""Of one program in one round."""
SPREAD = 0.05
"""Quartiles that are further apart, in shares of the median, leave a ratio unresolved."""


@dataclass(frozen=True)
class Round:
    """One round: every chosen program once."""

    benchmark: str
    conditions: dict[str, Any]
    """What must be equal for rounds to belong together: rows, precision, threads."""
    machine: dict[str, Any]
    results: dict[str, Figures]

    @property
    def kind(self) -> dict[str, Any]:
        """What rounds of one file have in common."""
        own = {k: self.machine.get(k) for k in ("cpu", "cores")}
        return {"benchmark": self.benchmark, **self.conditions, **own}


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one program is as another, over rounds that have both."""

    median: float
    low: float
    """The lower quartile."""
    high: float
    """The upper quartile."""
    rounds: int

    @property
    def resolved(self) -> bool:
        """Whether the quartiles are close enough for the median to count; never of one round."""
        return self.rounds > 1 and self.high - self.low <= SPREAD * self.median

    def __str__(self) -> str:
        if self.rounds == 1:
            return f"{self.median:.2f} (one round)"
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f}{'' if self.resolved else ', unresolved'})"

    def to_json(self) -> dict[str, Any]:
        """Rounded, with whether it is resolved."""
        return {k: round(v, 4) for k, v in asdict(self).items()} | {"resolved": self.resolved}


def ratio(rounds: Sequence[Round], mine: str, other: str, seconds: str) -> Ratio | None:
    """How many times as fast `mine` is as `other`, by a figure in seconds; None where no round has both."""
    pairs = [
        (r.results[mine].get(seconds), r.results[other].get(seconds)) for r in rounds if {mine, other} <= {*r.results}
    ]
    ratios = [theirs / own for own, theirs in pairs if own and theirs]
    if not ratios:
        return None
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Ratio(median, low, high, len(ratios))


def read(path: Path) -> list[Round]:
    """The rounds of a file; none where there is no file."""
    if not path.exists():
        return []
    return [Round(**value) for value in json.loads(path.read_text())["rounds"]]


def add(path: Path, new: Round) -> list[Round]:
    """Put a round behind those of a file. Raises ValueError where it isn't of their kind."""
    standing = read(path)
    check_kind(path, standing, new.kind)
    rounds = [*standing, new]
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps({"rounds": [asdict(r) for r in rounds]}, indent=1) + "\n")
    temporary.replace(path)
    return rounds


def check_kind(path: Path, standing: Sequence[Round], kind: dict[str, Any]) -> None:
    """Raise ValueError where rounds of this kind can't be put behind those of a file."""
    if standing and standing[0].kind != kind:
        theirs = standing[0].kind
        differing = sorted(k for k in {*kind, *theirs} if kind.get(k) != theirs.get(k))
        told = "; ".join(f"{k}: {theirs.get(k)} there, {kind.get(k)} now" for k in differing)
        raise ValueError(f"{path}: its rounds can't be compared with a new one ({told}): write to another file")


def summary(rounds: Sequence[Round], baseline: str, ours: str, seconds: str) -> dict[str, Any]:
    """What the rounds come to: of each program the median figures, its ratio to the baseline, and that of `ours` to it.

    `seconds` is the figure that is compared, such as `steady_s`.
    """
    names = list(dict.fromkeys(name for r in rounds for name in r.results))
    programs = {}
    for name in names:
        results = [r.results[name] for r in rounds if name in r.results]
        to_baseline, of_ours = ratio(rounds, name, baseline, seconds), ratio(rounds, ours, name, seconds)
        programs[name] = {
            "rounds": len(results),
            **figures(results, seconds),
            "to_baseline": to_baseline.to_json() if to_baseline and name != baseline else None,
            "ours_to_it": of_ours.to_json() if of_ours and name != ours else None,
        }
    kind = rounds[0].kind if rounds else {}
    commits = list(dict.fromkeys(str(r.machine.get("commit")) for r in rounds))
    return {**kind, "compared": seconds, "baseline": baseline, "ours": ours, "commits": commits, "programs": programs}


def figures(results: Sequence[Figures], seconds: str) -> dict[str, Any]:
    """Medians over the rounds of a program, and the largest peak; None for what it doesn't tell.

    CPU seconds are those of the time that is compared: from the first model on for `steady_s`, of all for `end_to_end_s`.
    """

    def median(name: str) -> float | None:
        known = [r[name] for r in results if r.get(name) is not None]
        return statistics.median(known) if known else None

    rates = [r["rows"] / r["steady_s"] for r in results if r.get("steady_s")]
    spent = "cpu_s" if seconds == "end_to_end_s" else "steady_cpu_s"
    cpu = [1000 * r[spent] / r["rows"] for r in results if r.get(spent) and r["rows"]]
    size = median("output_bytes")
    return {
        "rows_per_s": round(statistics.median(rates), 1) if rates else None,
        "end_to_end_s": median("end_to_end_s"),
        "first_s": median("first_s"),
        "peak_mb": max((r["peak_mb"] for r in results if r.get("peak_mb")), default=None),
        "output_mb": round(size / 2**20, 2) if size is not None else None,
        "cpu_ms_per_row": round(statistics.median(cpu), 4) if cpu else None,
    }


def markdown(made: dict[str, Any]) -> str:
    """A summary as a table, with what it is of above it."""
    of = ", ".join(f"{k} {made[k]}" for k in made if k not in ("compared", "programs", "baseline", "ours"))
    heads = [
        "program",
        "rows/s",
        f"{made['compared']}: to {made['baseline']}",
        f"{made['ours']} to it",
        "end to end s",
        "first result s",
        "peak MB",
        "output MB",
        "CPU ms a row",
    ]
    lines = [of, "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, program in made["programs"].items():
        cells = [
            name,
            _cell(program["rows_per_s"], ",.0f"),
            _ratio_cell(program["to_baseline"]),
            _ratio_cell(program["ours_to_it"]),
            _cell(program["end_to_end_s"], ",.1f"),
            _cell(program["first_s"], ",.1f"),
            _cell(program["peak_mb"], ",.0f"),
            _cell(program["output_mb"], ",.1f"),
            _cell(program["cpu_ms_per_row"], ",.4g"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _ratio_cell(value: dict[str, Any] | None) -> str:
    if value is None:
        return "–"
    return str(Ratio(*(value[k] for k in ("median", "low", "high", "rounds"))))
