"""Which precisions are worth measuring, and which is taken: a policy of pure functions, with every time passed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHARE = 0.03
"""Measuring may cost so much of the job, as estimated at full precision."""
COMPILE_SECONDS = 52.0
"""What torch.compile took for MiniLM at int8 on two cores: a candidate that compiles is expected to take it."""
PLAIN_COMPILE_SECONDS = 28.0
"""The same, where no layer rounds its inputs."""
NOISE = 1.05
"""A more exact precision is taken where the fastest isn't faster by more than this."""
GATED_BELOW = 16
"""Bits below which the gate decides; from there on it reports."""


@dataclass(frozen=True)
class Candidate:
    """A precision that the engine can be loaded at."""

    name: str
    bits: int
    compiles: bool = False

    @property
    def gated(self) -> bool:
        """Whether it may run only where the gate lets it pass."""
        return self.bits < GATED_BELOW

    @property
    def compile_seconds(self) -> float:
        """That compiling is expected to take; 0 where nothing is compiled."""
        if not self.compiles:
            return 0.0
        return COMPILE_SECONDS if self.gated else PLAIN_COMPILE_SECONDS


@dataclass(frozen=True)
class Job:
    """What the cost of measuring is held against."""

    rows: int
    """That one worker has to predict; with several calls at a time, that one of them has to answer."""
    row_seconds: float
    """Of a row at full precision, in one call at a time."""
    load_seconds: float
    """That loading the model took."""

    @property
    def seconds(self) -> float:
        """Of the job at full precision, as estimated."""
        return self.rows * self.row_seconds

    @property
    def budget(self) -> float:
        """Seconds that measuring may take."""
        return SHARE * self.seconds


def order(candidates: Sequence[Candidate]) -> list[Candidate]:
    """In which order candidates are tried: those that compile last, as they are the dearest; else the more exact first."""
    return sorted(candidates, key=lambda c: (c.compiles, -c.bits))


def skipped(candidate: Candidate, job: Job, timed_rows: float, spent: float) -> str | None:
    """Why a candidate isn't timed on `timed_rows` rows after measuring took `spent` seconds; None where it is.

    It is expected to be as slow as full precision, since timing ends where it is slower. One that can't pay back within the job
    can't keep to the bound either: that is less than what any gain worth taking brings.
    """
    cost = job.load_seconds + timed_rows * job.row_seconds + candidate.compile_seconds
    if spent + cost <= job.budget:
        return None
    what = "compiling and timing it" if candidate.compiles else "timing it"
    return _too_dear(what, cost, spent, job)


def outrun(candidate: Candidate, calls: int, usual: int) -> str | None:
    """Why compiling a precision of 16 bits or more is left to who asks for it; None where it is worth trying.

    Several calls at a time bring more than compiling, where that allows one: two of MiniLM on two cores took 0.84 (fp32) and 0.71 (bf16)
    of the time that compiled calls of two threads took.

    Args:
        candidate: a precision.
        calls: that are made at a time at it.
        usual: that are made at a time at others.

    """
    if candidate.compiles and not candidate.gated and calls < usual:
        return "several calls at a time bring more than compiling, which allows one: ask for it by name"
    return None


def ungated(candidate_row_seconds: float, job: Job, rows: int, known: bool, spent: float) -> str | None:
    """Why a timed candidate isn't compared with full precision on so many rows; None where it is.

    `known`: whether full precision's outputs are there already, so that its model needn't be loaded and run again.
    """
    cost = rows * candidate_row_seconds + (0.0 if known else rows * job.row_seconds + 2 * job.load_seconds)
    return None if spent + cost <= job.budget else _too_dear("comparing it with fp32", cost, spent, job)


def _too_dear(what: str, cost: float, spent: float, job: Job) -> str:
    so_far = f" after {_seconds(spent)} of measuring" if spent >= 0.05 else ""
    return (
        f"{what} takes about {_seconds(cost)}{so_far}, and more than {SHARE:.0%} of the job ({_seconds(job.seconds)} at "
        "full precision) isn't spent on measuring"
    )


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 10 else f"{value:.2g} s"


def take(row_seconds: Mapping[str, float], candidates: Sequence[Candidate]) -> tuple[str, str]:
    """The precision to run at, of those that were timed and may run, and why in words.

    Args:
        row_seconds: seconds of a row by name; not empty.
        candidates: all of them, the reference first: of equal bits the earlier is the more exact.

    """
    timed = [c for c in candidates if c.name in row_seconds]
    fastest = min(timed, key=lambda c: row_seconds[c.name])
    near = [c for c in timed if row_seconds[c.name] <= row_seconds[fastest.name] * NOISE]
    best = max(near, key=lambda c: c.bits)  # the first of equal ones
    if len(timed) == 1:
        return best.name, "nothing else was timed"
    if best is not fastest:
        gain = row_seconds[best.name] / row_seconds[fastest.name] - 1
        return best.name, f"{fastest.name} is faster by {gain:.1%} alone, and less exact"
    return best.name, "the fastest"


def instead(asked: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """What is tried, in this order, in place of one that failed the gate: the next in bits that doesn't compile, up to the reference.

    Of equal bits the more exact first. One that compiles isn't tried: nobody asked for the time that it takes.
    """
    return sorted((c for c in candidates if c.bits > asked.bits and not c.compiles), key=lambda c: c.bits)
