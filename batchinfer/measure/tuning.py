"""How far a quantity is turned up or down: batch budgets and streams, tried on the job's own rows while that pays. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

GAIN = 1.05
"""A step must win so much: less is within the noise of a short timing, and the default is as good."""

LIGHT = 100_000
"""Rows per second from which on reading, preparing and writing a row cost about what the model does."""
LIGHT_GAIN = 1.25
"""A call of several threads must win so much over calls of fewer, where rows are light."""


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


USUAL = 4
"""Calls at a time, at most, where nothing was tried: more of them wait for Python, which starts each of a model's steps."""


def usual(threads: int) -> int:
    """Into how many calls at a time the CPU threads of a worker are split where nothing was tried.

    Two calls of one thread answer more than one of two, which is not at both cores all the time: MiniLM 1.12 times (two cores).
    """
    return max(n for n in streams(threads) if n <= USUAL)


def split(start: int, threads: int, pace: Callable[[int], float | None]) -> tuple[int, dict[int, float | None]]:
    """Into how many calls at a time the threads of a worker are split: as many as cost no pace.

    Calls of fewer threads are preferred where the pace is the same, within GAIN, and where rows are light within LIGHT_GAIN: this is
    tried while nothing else runs, and in the job reading, preparing and writing want the cores too. A call of several threads waits at
    each of its steps for the one that has no core. For a small network over a table (two cores), two calls of one thread had 0.9 of the
    pace of one call of two when tried, and 1.07 to 1.2 of it in the job.

    Args:
        start: calls to begin with.
        threads: of the worker.
        pace: rows per second with so many calls at a time; None where that doesn't fit into memory or there is no time left to try it.

    Returns:
        The number of calls, and the pace of each that was asked for.

    """
    paces: dict[int, float | None] = {start: pace(start)}
    best, most = start, paces[start] or 0.0
    if paces[start] is None:
        return start, paces
    rungs = streams(threads)
    for number in (n for n in rungs if n > start):
        paces[number] = found = pace(number)
        if found is None or found * _gain(most) < most:
            break
        best, most = number, max(most, found)
    fewer = [n for n in reversed(rungs) if n < start] if best == start else []
    for number in fewer:
        paces[number] = found = pace(number)
        if found is None or found < most * _gain(most):
            break
        best, most = number, found
    return best, paces


def _gain(pace: float) -> float:
    return LIGHT_GAIN if pace > LIGHT else GAIN


def streams(threads: int) -> list[int]:
    """In how many calls at a time so many CPU threads can be spent evenly: powers of two that divide them, from 1."""
    return [n for n in (2**k for k in range(threads.bit_length())) if threads % n == 0]
