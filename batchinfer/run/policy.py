"""What follows from failures and dead rows: pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum
from fractions import Fraction

from batchinfer.worker.context import Failed, Failure


class Action(Enum):
    """What to do about a shard that failed."""

    RETRY = "retry"
    GIVE_UP = "give up"
    """Leave the shard, finish the others."""
    ABORT = "abort"
    """Drain and end: the others would fail too."""


QUARANTINE = 2
"""Deaths on a shard after which its model runs in a child process, where each row that ends a process is found."""


def decide(failed: Failed, deaths: int, max_retries: int) -> Action:
    """What to do about a failed shard that `deaths` workers or runners died on so far, this one included.

    Up to `max_retries` deaths are borne in quarantine as well: there it is a child process that dies of a row, and a worker only
    of something else.
    """
    match failed.failure:
        case Failure.DIED | Failure.LOST | Failure.HUNG | Failure.POISONED:
            return Action.RETRY if deaths <= QUARANTINE + max_retries else Action.ABORT
        case Failure.INPUT:
            return Action.GIVE_UP
        case _:
            return Action.ABORT


def counted(failed: Failed, before: int, max_retries: int) -> int:
    """The deaths on a shard after this failure.

    What hung or broke the device would do it again: that shard goes to quarantine at once, and so does the shard of a worker
    that may not be replaced outside it.
    """
    match failed.failure:
        case Failure.HUNG | Failure.POISONED:
            return max(QUARANTINE, before + 1)
        case Failure.DIED | Failure.LOST:
            return max(QUARANTINE if max_retries == 0 else 1, before + 1)
        case _:
            return before


def deaths_before(noted: Mapping[int, int], in_hand: Iterable[int], left: Iterable[int]) -> dict[int, int]:
    """Deaths by shard at the start of a runner.

    A runner may end for many reasons that are no row's fault, so these bring a shard to quarantine and never beyond.

    Args:
        noted: by the runner before it.
        in_hand: shards that the runner before it may have had in hand when it ended uncleanly: it may have died of each.
        left: the undecided shards.

    """
    died = set(in_hand)
    counts = {n: min(QUARANTINE, noted.get(n, 0) + (n in died)) for n in left}
    return {n: count for n, count in counts.items() if count}


def allowed_dead(threshold: int | str, planned: int) -> float:
    """How many dead rows `errors.threshold` allows: rows, a share of the planned rows such as `0.1%`, or any number for -1."""
    if isinstance(threshold, str):
        return math.floor(planned * Fraction(threshold.rstrip("%")) / 100)  # exact: 0.57% of 100,000 is 570, not 569
    return math.inf if threshold < 0 else threshold


def verdict(dead: int, threshold: int | str, planned: int) -> int:
    """Exit code of a job whose rows are all attempted: 0, or 3 with more dead rows than allowed."""
    return 0 if dead <= allowed_dead(threshold, planned) else 3
