"""The plots of how predictions are distributed, beside those of before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchinfer.report.column_profile import ColumnProfile
from batchinfer.report.histogram import Histogram
from batchinfer.report.html.figure import SERIES, drawn
from batchinfer.report.html.plots import HALF, beside, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LABELS = 12
EVEN = 1e-4
"""Of the mean: a deviation below it is rounding."""
_LONGEST_LABEL = 26
_OF = {"value": "value", "characters": "characters", "bytes": "bytes", "items": "items", "norm": "norm of the vector"}


def distribution(now: ColumnProfile, before: ColumnProfile | None) -> str:
    """Labels by their share, or a histogram; an empty text for a column of which neither is known."""
    if now.labels:
        return _labels(now, before)
    numbers = now.numbers
    if numbers is None or not numbers.histogram.counts:
        return ""
    if now.directions and numbers.std < EVEN * abs(numbers.mean):  # of normalised vectors the norm says nothing
        other = before.directions[0] if before is not None and before.directions else None
        return _histogram(now.directions[0], other, f"product with a fixed vector (their norm is {numbers.mean:.4g})")
    other = None if before is None or before.numbers is None else before.numbers.histogram
    return _histogram(numbers.histogram, other, _OF.get(numbers.of, numbers.of))


def _labels(now: ColumnProfile, before: ColumnProfile | None) -> str:
    mine, theirs = _shares(now), {} if before is None else _shares(before)
    names = sorted({*mine, *theirs}, key=lambda name: -max(mine.get(name, 0.0), theirs.get(name, 0.0)))[:MOST_LABELS]
    with drawn(HALF, 0.7 + (0.42 if theirs else 0.3) * len(names)) as (axes, picture):
        places, height = np.arange(len(names)), 0.36 if theirs else 0.64
        shown = [(mine, SERIES[0], "now"), *([(theirs, SERIES[1], "before")] if theirs else [])]
        for line, (shares, colour, label) in enumerate(shown):
            at = places + (line - (len(shown) - 1) / 2) * (height + 0.03)
            values = [100 * shares.get(name, 0.0) for name in names]
            axes.barh(at, values, height, color=colour, label=label)
            for place, value in zip(at, values, strict=True):
                beside(axes, value, place, _percent(value))
        axes.set_yticks(places, [_short(name) for name in names], parse_math=False)
        axes.set(xlim=(0, 118), ylim=(len(names) - 0.4, -0.6), xticks=[])
        axes.spines["bottom"].set_visible(False)
        if theirs:
            legend(axes)
    return picture.svg


def _shares(column: ColumnProfile) -> dict[str, float]:
    there = max(1, column.rows - column.nulls)
    return {name: rows / there for name, rows in (column.labels or {}).items()}


def _histogram(now: Histogram, before: Histogram | None, label: str) -> str:
    width = now.width if before is None else max(now.width, before.width)
    mine = now.coarsened(width)
    theirs = None if before is None or not before.counts else before.coarsened(width)
    with drawn(HALF, 2.1) as (axes, picture):
        _stairs(axes, mine, SERIES[0], "now", fill=True)
        if theirs is not None:
            _stairs(axes, theirs, SERIES[1], "before", fill=False)
        axes.set(ylim=(0, None), xlabel=label, ylabel="% of rows")
        axes.grid(axis="y")
        axes.margins(x=0.02)
        if theirs is not None:
            legend(axes)
    return picture.svg


def _stairs(axes: Axes, made: Histogram, colour: str, label: str, *, fill: bool) -> None:
    """The bins that hold a value, with nothing between those that don't touch."""
    lefts, counts = np.array(made.lefts), np.array(made.counts, float)
    shares = 100 * counts / max(1.0, counts.sum())
    first = True
    for run in np.split(np.arange(lefts.size), np.flatnonzero(np.diff(lefts) > 1.5 * made.width) + 1):
        edges = np.append(lefts[run], lefts[run[-1]] + made.width)
        if fill:
            axes.stairs(shares[run], edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(shares[run], edges, color=colour, linewidth=1.6, label=label if first else None)
        first = False


def _percent(value: float) -> str:
    return f"{value:.1f} %" if value >= 0.1 or not value else "< 0.1 %"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…"
