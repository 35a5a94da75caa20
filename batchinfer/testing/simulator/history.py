"""What happened in one history, operation by operation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from batchinfer.testing.simulator.shape import Shape
from batchinfer.testing.simulator.weather import Weather


@dataclass
class History:
    """What happened."""

    seed: int
    weather: Weather
    shape: Shape
    lines: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seen: int = 0
    """Rows that the model was called with."""
    steps: int = 0
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    parts: dict[int, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        shape = self.shape
        head = [
            f"seed {self.seed}: {self.weather}",
            f"job: {shape.rows} rows, {shape.shard} a shard, {shape.window} a window; poison {sorted(shape.special(0).poison)}, invalid "
            f"{sorted(shape.special(0).invalid)}, filtered {sorted(shape.filtered)}; a batch takes {shape.pace:g} s, checkpoints every "
            f"{shape.interval:g} s",
        ]
        for n, step in enumerate(shape.steps[1:], 1):
            special = shape.special(n)
            head.append(
                f"then {step.name}: {step.reads} to {step.writes}, when {step.when or 'always'}; poison {sorted(special.poison)}, "
                f"invalid {sorted(special.invalid)}"
            )
        return "\n".join([*head, *self.lines, *(f"VIOLATION: {v}" for v in self.violations)])
