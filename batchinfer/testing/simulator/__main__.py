"""Simulate: one seed told in full, many seeds, or the mutants."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from batchinfer.testing.simulator import campaign, mutants
from batchinfer.testing.simulator.seed import simulate


def main(arguments: list[str] | None = None) -> int:
    """Run and say; 1 where something doesn't hold, or a mutant survives."""
    parser = argparse.ArgumentParser(prog="python -m batchinfer.testing.simulator", description=__doc__)
    parser.add_argument("--seed", type=int, help="tell the history of this seed")
    parser.add_argument("--seeds", type=int, default=2000, help="how many (for mutants: at most)")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), help="with --seed: of this mutant")
    parser.add_argument(
        "--plain", action="store_true", help="with --seed: of one step, over an input that stays as it is"
    )
    parser.add_argument("--mutants", action="store_true", help="the first seed that catches each mutant")
    asked = parser.parse_args(arguments)
    if asked.seed is not None:
        with mutants.MUTANTS[asked.mutant]() if asked.mutant else contextlib.nullcontext():
            history = simulate(asked.seed, plain=asked.plain)
        say(str(history))
        return 1 if history.violations else 0
    seeds = range(asked.first, asked.first + asked.seeds)
    if asked.mutants:
        caught = []
        for one in campaign.hunt_all(seeds, asked.jobs):
            caught.append(one)
            say(str(one))
        return 0 if all(one.violation for one in caught) else 1
    total = campaign.Campaign()
    for some in campaign.run(seeds, asked.jobs):
        total.add(some)
    say(str(total))
    return 1 if total.violations else 0


def say(text: str) -> None:
    """Print."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
