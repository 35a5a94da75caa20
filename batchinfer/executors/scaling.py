"""How many model actors a pool should have."""

from __future__ import annotations

from dataclasses import dataclass

BUSY = 0.9
"""A pool that computes for so much of its time may be what the run waits for."""
SPARE = 0.7
"""How busy the actors that stay may be where one is given up."""
WAITING = 0.5
"""Seconds that batches wait for a second of computing, where the run waits for the pool: with one worker that prepares, each actor has
a batch in hand and one that waits, so that there is never more than about 1.
"""


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
    """How many actors there should be: one more where it never rests and batches wait, one less where fewer would do."""
    capacity = stretch.seconds * stretch.actors
    wanted = stretch.actors
    if stretch.busy > BUSY * capacity and stretch.waited > WAITING * stretch.busy:
        wanted += 1
    elif stretch.busy < SPARE * (capacity - stretch.seconds):
        wanted -= 1
    return min(most, max(least, wanted))
