"""The threshold of a cascade: below which confidence of a smaller model a row goes to the bigger one.

Thresholds are tried from the most careful one on, each by an exact test of whether the cascade agrees with the bigger model often
enough, until the first that fails. The order is given by the confidences alone, so that the tests together err in 5 of 100 jobs, however
many there are (fixed-sequence testing: Angelopoulos et al. 2021, Learn then Test, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchinfer.errors import GateError, ModelError
from batchinfer.job.cascades import output_of
from batchinfer.job.steps import Cascade, Step

STEPS = 50
"""Shares of the rows that are tried."""
ALPHA = 0.05
_Z = 2.3263478740408408
"""Of a one-sided test at 1 %: of a hundred confidences that say nothing, one passes for a signal."""


@dataclass(frozen=True)
class Point:
    """What a threshold does, on the sample."""

    threshold: float
    share: float
    """Of rows that go to the bigger model."""
    agreement: float
    """Of the cascade with the bigger model, over all rows."""
    low: float
    """Its lower bound at 95 %."""

    def __str__(self) -> str:
        return f"{self.threshold:.4g}: {self.share:.0%} to it, agrees on {self.agreement:.2%} (at least {self.low:.2%})"


@dataclass(frozen=True)
class Found:
    """The threshold that is taken, and what others would do."""

    chosen: Point
    curve: tuple[Point, ...]
    """From the most careful on."""
    rows: int

    def to_json(self) -> dict[str, Any]:
        """For the settings."""
        return {"rows": self.rows, "chosen": asdict(self.chosen), "curve": [asdict(p) for p in self.curve]}


def compared(
    step: Step, cascade: Cascade, sure: pa.Array, theirs: pa.Array, ours: pa.Array
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The confidences of rows that both models answered, and whether they answered alike.

    Raises ModelError for answers that are no labels, or not of one kind.
    """
    output = output_of(step)
    if pa.types.is_floating(ours.type) or pa.types.is_nested(ours.type):
        raise ModelError(
            f"{step.name}.cascade: {output} is {ours.type}, and answers are compared as labels: whole numbers or texts"
        )
    if theirs.type != ours.type and not (pa.types.is_integer(theirs.type) and pa.types.is_integer(ours.type)):
        raise ModelError(
            f"{step.name}.cascade.answer: the column {cascade.answer!r} is {theirs.type}, and {output} is {ours.type}: name the smaller "
            "model's answer of the same kind"
        )
    known = pc.and_(sure.is_valid(), pc.and_(theirs.is_valid(), ours.is_valid()))
    sure, theirs, ours = (column.filter(known) for column in (sure, theirs, ours.cast(theirs.type)))
    return np.asarray(sure, np.float64), np.asarray(pc.equal(theirs, ours), np.bool_)


def find(
    confidence: NDArray[np.float64], agrees: NDArray[np.bool_], asked: float, step: str, *, whole: bool = False
) -> Found:
    """The threshold with the fewest rows for the bigger model at which the cascade agrees with it as asked.

    Args:
        confidence: of the smaller model, shape (rows,).
        agrees: whether both answer alike, shape (rows,).
        asked: the least agreement.
        step: the bigger model's name, for messages.
        whole: whether the rows are all of the job, so that there is nothing to infer.

    Raises GateError where confidence says nothing about agreement, or no threshold but that of the bigger model alone will do.
    """
    points = curve(confidence, agrees, whole=whole)
    wrong = int((~agrees).sum())
    if wrong and not _tells(confidence, agrees):
        raise GateError(
            f"{step}.cascade: of {len(agrees):,} rows of the job the two models disagree on {wrong:,}, and there the smaller one is as sure as "
            f"elsewhere: confidence carries no signal, so that no threshold is of use. {_shown(points)}. Take another column, another model, "
            "or a larger cascade.sample"
        )
    passing: list[Point] = []
    for point in points:
        if point.low < asked:
            break
        passing.append(point)
    if not passing:
        raise GateError(
            f"{step}.cascade: at no threshold does the cascade agree with the bigger model on {asked:.2%} of the rows or more with 95 % "
            f"certainty, by {len(agrees):,} rows: {_shown(points)}. Ask for less (cascade.agreement), show more rows (cascade.sample), or "
            "run the bigger model alone"
        )
    return Found(passing[-1], points, len(agrees))


def curve(confidence: NDArray[np.float64], agrees: NDArray[np.bool_], *, whole: bool = False) -> tuple[Point, ...]:
    """What thresholds at even shares of the rows do, from the most careful on; of equal confidences all rows go one way."""
    rows = len(confidence)
    order = np.argsort(-confidence, kind="stable")
    sure, wrong = confidence[order], np.cumsum(~agrees[order])
    points: list[Point] = []
    for kept in np.unique(np.linspace(0, rows, STEPS + 1).astype(int))[1:]:
        threshold = float(sure[kept - 1])
        last = int(np.searchsorted(-sure, -threshold, side="right"))
        if points and points[-1].threshold == threshold:
            continue
        right = rows - int(wrong[last - 1])
        low = right / rows if whole else least_share(right, rows)
        points.append(Point(threshold, 1 - last / rows, right / rows, low))
    return tuple(points)


def least_share(successes: int, rows: int, alpha: float = ALPHA) -> float:
    """The exact one-sided lower bound of a share (Clopper and Pearson 1934, Biometrika 26:404)."""
    if successes == 0:
        return 0.0
    low, high = 0.0, successes / rows
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _at_least(successes, rows, middle) > alpha else (middle, high)
    return low


def _at_least(successes: int, rows: int, share: float) -> float:
    """The probability of so many successes or more."""
    if share <= 0:
        return 0.0
    counts = np.arange(successes, rows + 1)
    logs = np.array([math.lgamma(rows + 1) - math.lgamma(k + 1) - math.lgamma(rows - k + 1) for k in counts.tolist()])
    logs = (
        logs + counts * math.log(share) + (rows - counts) * math.log1p(-share)
        if share < 1
        else np.where(counts == rows, 0.0, -np.inf)
    )
    return float(np.exp(logs).sum())


def _tells(confidence: NDArray[np.float64], agrees: NDArray[np.bool_]) -> bool:
    """Whether rows on which both agree have higher confidences (Mann and Whitney 1947, one-sided, ties counted half)."""
    right, wrong = confidence[agrees], np.sort(confidence[~agrees])
    if not len(right):
        return False
    below = np.searchsorted(wrong, right, side="left")
    upto = np.searchsorted(wrong, right, side="right")
    statistic = float((below + upto).sum()) / 2
    pairs, rows = len(right) * len(wrong), len(confidence)
    _, ties = np.unique(confidence, return_counts=True)
    variance = pairs / 12 * (rows + 1 - float((ties**3 - ties).sum()) / max(1, rows * (rows - 1)))
    return variance > 0 and (statistic - pairs / 2) / math.sqrt(variance) > _Z


def _shown(points: Sequence[Point], most: int = 5) -> str:
    """Some points of a curve."""
    picked = [points[int(n)] for n in np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).astype(int))]
    return "; ".join(map(str, picked))
