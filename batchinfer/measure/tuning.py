"""How far a quantity is turned up or down: batch budgets and streams, tried on the job's own rows while that pays. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

GAIN = 1.05
"""A step must win so much: less is within the noise of a short timing, and the default is as good."""


def climb(start: int, rungs: Sequence[int], pace: Callable[[int], float | None]) -> tuple[int, dict[int, float | None]]:
    """Go up from `start` as long as each rung is faster by GAIN than the one before; where the first isn't, go down instead.

    Args:
        start: where to begin, and what is kept where nothing is faster.
        rungs: the values that may be tried, in any order.
        pace: rows per second at a value; None where it doesn't fit into memory or there is no time left to try it.

    Returns:
        The best value, and the pace of each that was asked for.

    """
    paces: dict[int, float | None] = {start: pace(start)}
    best = start
    if paces[start] is None:
        return best, paces
    for direction in (
        sorted(r for r in rungs if r > start),
        sorted((r for r in rungs if r < start), reverse=True),
    ):
        for rung in direction:
            paces[rung] = found = pace(rung)
            if found is None or found < (paces[best] or 0.0) * GAIN:
                break
            best = rung
        if best != start:
            break
    return best, paces


def streams(threads: int) -> list[int]:
    """In how many calls at a time so many CPU threads can be spent evenly: powers of two that divide them, from 1."""
    return [n for n in (2**k for k in range(threads.bit_length())) if threads % n == 0]
