"""How many model actors a pool should have."""

from __future__ import annotations

from dataclasses import dataclass

BUSY = 0.9
"""A pool that computes for so much of its time may be what the run waits for."""
SPARE = 0.7
"""How busy the actors that stay may be where one is given up."""


@dataclass(frozen=True)
class Stretch:
    """What a pool did in some seconds, all its actors together."""

    actors: int
    seconds: float
    batches: int
    busy: float
    waited: float
    """By batches, for their turn."""


def target(least: int, most: int, stretch: Stretch) -> int:
    """How many actors there should be: one more where batches wait for longer than they are computed, one less where fewer would do."""
    capacity = stretch.seconds * stretch.actors
    wanted = stretch.actors
    if stretch.busy > BUSY * capacity and stretch.waited > stretch.busy:
        wanted += 1
    elif stretch.busy < SPARE * (capacity - stretch.seconds):
        wanted -= 1
    return min(most, max(least, wanted))
