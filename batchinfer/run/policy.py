"""What follows from failures and dead rows: pure functions."""

from __future__ import annotations

import math
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


def decide(failed: Failed, deaths: int, max_retries: int) -> Action:
    """What to do about a failed shard that `deaths` workers died on so far, this one included.

    A lost shard is tried again without counting: executors see to it that this can't go on for ever.
    """
    match failed.failure:
        case Failure.DIED:
            return Action.RETRY if deaths <= max_retries else Action.ABORT
        case Failure.LOST:
            return Action.RETRY
        case Failure.INPUT:
            return Action.GIVE_UP
        case _:
            return Action.ABORT


def allowed_dead(threshold: int | str, planned: int) -> float:
    """How many dead rows `errors.threshold` allows: rows, a share of the planned rows such as `0.1%`, or any number for -1."""
    if isinstance(threshold, str):
        return math.floor(planned * Fraction(threshold.rstrip("%")) / 100)  # exact: 0.57% of 100,000 is 570, not 569
    return math.inf if threshold < 0 else threshold


def verdict(dead: int, threshold: int | str, planned: int) -> int:
    """Exit code of a job whose rows are all attempted: 0, or 3 with more dead rows than allowed."""
    return 0 if dead <= allowed_dead(threshold, planned) else 3
