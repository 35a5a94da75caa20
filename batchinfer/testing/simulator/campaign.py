"""Many histories, over several processes."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from batchinfer.testing.simulator import mutants
from batchinfer.testing.simulator.seed import simulate

_CHUNK = 25


@dataclass
class Campaign:
    """What came of the histories of many seeds."""

    seeds: int = 0
    steps: int = 0
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: dict[int, str] = field(default_factory=dict)
    """The first of each seed that has any."""

    def add(self, other: Campaign) -> None:
        """Take in those of other seeds."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.starts += other.starts
        self.faults += other.faults
        self.violations.update(other.violations)

    def __str__(self) -> str:
        told = ", ".join(f"{n:,} {kind}" for kind, n in sorted(self.faults.items()))
        lines = [
            f"{self.seeds:,} seeds, {self.starts:,} starts of a runner, {self.steps:,} steps; faults: {told or 'none'}",
            f"{len(self.violations):,} violations",
        ]
        lines += [
            f"  python -m batchinfer.testing.simulator --seed {seed}   # {what.splitlines()[0][:140]}"
            for seed, what in sorted(self.violations.items())[:20]
        ]
        return "\n".join(lines)


def of(seeds: Sequence[int]) -> Campaign:
    """The histories of some seeds, in this process."""
    campaign = Campaign()
    for seed in seeds:
        history = simulate(seed)
        campaign.add(Campaign(1, history.steps, history.starts, history.faults))
        if history.violations:
            campaign.violations[seed] = history.violations[0]
    return campaign


def run(seeds: Sequence[int], jobs: int) -> Iterable[Campaign]:
    """The same over several processes, a few seeds at a time, in the order of the seeds."""
    chunks = [seeds[n : n + _CHUNK] for n in range(0, len(seeds), _CHUNK)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(of, chunks)


@dataclass(frozen=True)
class Caught:
    """How a mutant fared."""

    mutant: str
    seed: int | None
    """That shows it; None for one that survived."""
    violation: str | None

    def __str__(self) -> str:
        seed = "" if self.seed is None else str(self.seed)
        return f"{self.mutant:42s} {seed:>6s}  {(self.violation or 'SURVIVED').splitlines()[0][:110]}"


def hunt(mutant: str, seeds: Iterable[int]) -> Caught:
    """Histories of a mutant until one shows it."""
    with mutants.MUTANTS[mutant]():
        for seed in seeds:
            violations = simulate(seed).violations
            if violations:
                return Caught(mutant, seed, violations[0])
    return Caught(mutant, None, None)


def hunt_all(seeds: Sequence[int], jobs: int) -> Iterable[Caught]:
    """Every mutant, over several processes."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(hunt, mutants.MUTANTS, itertools.repeat(seeds))
