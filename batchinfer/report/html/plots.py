"""The plots of a run's page, each an `<svg>` or, where there is nothing to draw, an empty text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from batchinfer.plan.describe import size
from batchinfer.report.figures import duration
from batchinfer.report.html.figure import COLOURS, SERIES, drawn
from batchinfer.report.record import RunRecord, StageSeconds, StepFigures, Worker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALF, WHOLE = 5.2, 10.8
"""Widths in inches: of a plot that has another beside it where there is room, and of one that never has."""
MOST_LANES = 40
_BINS = 60
STAGES: Mapping[str, tuple[str, str]] = {
    "read": ("reading", SERIES[3]),
    "prepare": ("preparing", SERIES[4]),
    "wait": ("device waiting", SERIES[5]),
    "infer": ("model", SERIES[0]),
    "write": ("writing", SERIES[2]),
    "commit": ("checkpoints, parts", SERIES[1]),
}
_STATES = {"running": SERIES[0], "idle": COLOURS["grid"], "loading": SERIES[4], "restarting": COLOURS["bad"]}


def throughput(record: RunRecord) -> str:
    """Rows a second over the run's time."""
    if len(record.throughput) < 3:
        return ""
    seconds, rows = (np.array(column, float) for column in zip(*record.throughput, strict=True))
    edges = np.linspace(seconds[0], seconds[-1], min(_BINS, max(2, len(seconds) // 2)) + 1)
    pace = np.diff(np.interp(edges, seconds, rows)) / np.maximum(np.diff(edges), 1e-9)
    scale, unit = _unit(record.seconds)
    with drawn(HALF, 2.3) as (axes, picture):
        axes.stairs(pace, edges / scale, fill=True, color=SERIES[0], alpha=0.25)
        axes.stairs(pace, edges / scale, color=SERIES[0], linewidth=1.6)
        mean = (rows[-1] - rows[0]) / max(seconds[-1] - seconds[0], 1e-9)
        axes.axhline(mean, color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 3)))
        axes.grid(axis="y")
        axes.set(xlim=(0, max(record.seconds, seconds[-1]) / scale), ylim=(0, None), xlabel=unit, ylabel="rows/s")
        _thousands(axes, "y")
        _thousands(axes, "x")
    return picture.svg


def timeline(record: RunRecord) -> str:
    """What each worker had in hand: shards one after the other, the pauses between, and the start."""
    crew = [worker for worker in record.crew if worker.segments][:MOST_LANES]
    if not crew:
        return ""
    scale, unit = _unit(record.seconds)
    with drawn(WHOLE, 0.9 + 0.3 * len(crew)) as (axes, picture):
        for lane, worker in enumerate(crew):
            odd = False
            if record.settled:
                axes.broken_barh([(0, record.settled / scale)], (lane - 0.36, 0.72), color=SERIES[4], alpha=0.55)
            for segment in worker.segments:
                odd = not odd if segment.state == "running" else odd
                axes.broken_barh(
                    [(segment.begin / scale, max(segment.end - segment.begin, record.seconds / 2000) / scale)],
                    (lane - 0.36, 0.72),
                    color=_STATES.get(segment.state, COLOURS["grid"]),
                    alpha=0.6 if segment.state == "running" and not odd else 0.95,
                    linewidth=0,
                )
        axes.set_yticks(range(len(crew)), [f"worker {worker.worker}" for worker in crew])
        axes.set(xlim=(0, record.seconds / scale), xlabel=unit)
        _thousands(axes, "x")
        axes.set_ylim(len(crew) - 0.4, -0.6)
    return picture.svg


def stages(seconds: StageSeconds) -> str:
    """Where the workers' time went."""
    named = [(told, getattr(seconds, name), colour) for name, (told, colour) in STAGES.items()]
    whole = sum(value for _, value, _ in named)
    if not whole:
        return ""
    with drawn(HALF, 2.3) as (axes, picture):
        places = range(len(named))
        axes.barh(places, [value for _, value, _ in named], 0.66, color=[colour for *_, colour in named])
        axes.set_yticks(places, [told for told, *_ in named])
        for place, (_, value, _) in zip(places, named, strict=True):
            beside(axes, value, place, f"{duration(value)} · {100 * value / whole:.0f} %")
        axes.set(xlim=(0, 1.35 * max(value for _, value, _ in named)), xticks=[])
        axes.spines["bottom"].set_visible(False)
        axes.invert_yaxis()
    return picture.svg


def batch_sizes(steps: Mapping[str, StepFigures]) -> str:
    """Batches of models by their rows."""
    some = {name: step.batch_rows for name, step in steps.items() if step.batch_rows}
    if not some:
        return ""
    sizes = sorted({int(rows) for step in some.values() for rows in step})
    with drawn(HALF, 2.1) as (axes, picture):
        width = 0.8 / len(some)
        for number, (name, step) in enumerate(some.items()):
            at = np.arange(len(sizes)) + width * (number - (len(some) - 1) / 2)
            axes.bar(
                at,
                [step.get(str(rows), 0) for rows in sizes],
                width * 0.92,
                color=SERIES[number % len(SERIES)],
                label=name,
            )
        axes.set_xticks(range(len(sizes)), [_span(rows) for rows in sizes])
        axes.set(xlabel="rows of a batch", ylabel="batches")
        axes.grid(axis="y")
        _thousands(axes, "y")
        if len(some) > 1:
            legend(axes)
    return picture.svg


def memory(crew: Sequence[Worker]) -> str:
    """The most that each worker's process took."""
    some = [worker for worker in crew if worker.memory][:MOST_LANES]
    if not some:
        return ""
    on_device = any(worker.device_memory for worker in some)
    with drawn(HALF, 0.1 + (0.55 if on_device else 0.32) * len(some)) as (axes, picture):
        most = max(max(worker.memory, worker.device_memory) for worker in some)
        for lane, worker in enumerate(some):
            both = [("", worker.memory, SERIES[0]), *([("GPU ", worker.device_memory, SERIES[1])] if on_device else [])]
            for line, (what, value, colour) in enumerate(both):
                at = lane + (line - (len(both) - 1) / 2) * 0.4
                axes.barh(at, value, 0.36 if on_device else 0.7, color=colour)
                beside(axes, value, at, f"{what}{size(value)}")
        axes.set_yticks(range(len(some)), [f"worker {worker.worker}" for worker in some])
        axes.set(xlim=(0, 1.3 * most), ylim=(len(some) - 0.5, -0.5), xticks=[])
        axes.spines["bottom"].set_visible(False)
    return picture.svg


def beside(axes: Axes, value: float, place: float, text: str) -> None:
    """A text at the end of a lying bar."""
    axes.annotate(
        text,
        (value, place),
        (4, 0),
        textcoords="offset points",
        va="center",
        color=COLOURS["ink"],
        fontsize=9,
        parse_math=False,
    )


def legend(axes: Axes) -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, handlelength=1.2)


def _span(rows: int) -> str:
    return f"{rows}" if rows <= 2 else f"≤ {rows:,}"


def _unit(seconds: float) -> tuple[float, str]:
    """Seconds of the unit in which so long a time is shown, and its name."""
    for length, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 3 * length:
            return length, name
    return 1.0, "seconds"


def _thousands(axes: Axes, axis: str) -> None:
    """Figures with separators, and whole ones where they are large."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ticks = getattr(axes, f"{axis}axis")
    ticks.set_major_locator(MaxNLocator(6))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 10 else f"{value:g}"))
