"""What `batchinfer plan --measure` shows: canaries while they go on, and what they say of the whole job."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from batchinfer.api.measure import Measurement
from batchinfer.cli.signals import Signals
from batchinfer.cli.streams import tell
from batchinfer.cli.watchdog import Watchdog
from batchinfer.measure.canary import Canary, Comparison
from batchinfer.measure.intervals import Interval
from batchinfer.plan.describe import count, size
from batchinfer.report.figures import duration, money, rate
from batchinfer.report.words import precisions
from batchinfer.run.events import Event, GivenUp, Retried, Settled, Started, Ticked

_LINE_SECONDS = 5.0
_NAMES = {"inline": "inline", "ray": "Ray"}


class Telling:
    """A listener that tells of canaries on stderr.

    Args:
        signals: told of the events first.
        watchdog: the same.

    """

    def __init__(self, signals: Signals, watchdog: Watchdog) -> None:
        self._listeners = (signals.watch, watchdog)
        self._executor, self._next = "", 0.0

    def __call__(self, event: Event) -> None:
        """Take in an event of a canary."""
        for listener in self._listeners:
            listener(event)
        if line := self._line(event):
            tell(f"batchinfer: {line}")

    def _line(self, event: Event) -> str:
        if isinstance(event, Started):
            self._executor = _NAMES[event.executor]
            return f"{self._executor}: making ready"
        if isinstance(event, Settled):
            self._next = time.monotonic() + _LINE_SECONDS
            return f"{self._executor}: {count(event.workers, 'worker')}, {precisions(event.settings)}"
        if isinstance(event, Ticked) and time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            return f"{self._executor}: {event.decided_rows + sum(p.in_hand for p in event.progress):,} rows"
        if isinstance(event, Retried | GivenUp):
            return f"{self._executor}: {event.failed.error}"
        return ""


def remove(folder: object) -> Callable[[], None]:
    """What removes the folder of the canaries, where the program is ended at once."""
    return lambda: shutil.rmtree(str(folder), ignore_errors=True)


def lines(found: Measurement) -> list[tuple[str, str]]:
    """The rows of the table."""
    notes = [("note", note) for note in found.notes]
    if not found.canaries:
        return notes
    mine, price = found.canaries[0], found.price_per_hour
    several = "" if len(found.canaries) == 1 else f", {_NAMES[mine.executor]}"
    hours = mine.device_hours(found.rows)
    told = [
        (
            "measured",
            f"{count(mine.rows, 'row')} in {count(mine.pieces, 'piece')} spread over the input, after {mine.before:,} others",
        ),
        *(pair for canary in found.canaries for pair in _canary(canary)),
        ("time", f"{_span(mine.seconds(found.rows), duration)} for {count(found.rows, 'row')}{several}"),
        ("device-hours", f"{_span(hours, money)}, {_devices(mine.devices)}"),
    ]
    if price is not None:
        told.append(("cost", f"{_span(Interval(*(h * price for h in hours)), money)} at {price:g} a device-hour"))
    if (compared := found.comparison) is not None:
        told.append(("sooner", _compared(compared, found)))
    if found.dead:
        told.append(("dead rows", f"{found.dead:,} of the canary's: errors.threshold says how many a job may have"))
    return [*told, ("ranges", _how(mine)), *notes]


def _how(canary: Canary) -> str:
    """How the ranges are found."""
    text = "the mean pace of the pieces, with 95 % confidence"
    if canary.first_start > canary.start:
        text += "; the upper end with the start of a first run, which measures the model, the lower one with that of later ones"
    return f"{text}. Runs on other machines, or beside other work, are not in them"


def _canary(canary: Canary) -> list[tuple[str, str]]:
    first = f", {duration(canary.first_start)} the first time" if canary.first_start > canary.start + 0.1 else ""
    pace = canary.row_seconds
    paces = _span(Interval(1 / pace.value, 1 / pace.high, 1 / pace.low), rate)
    memory = [f"{size(canary.memory)} of memory"] if canary.memory else []
    memory += [f"{size(canary.device_memory)} of the GPU's"] if canary.device_memory else []
    told = f"ready in {duration(canary.start)}{first}, then {paces}, {count(canary.workers, 'worker')}"
    each = " each" if canary.workers > 1 else ""
    return [(_NAMES[canary.executor], told + (f", at most {' and '.join(memory)}{each}" if memory else ""))]


def _devices(devices: float) -> str:
    """`1 device`, `0.5 devices`."""
    return f"{devices:g} device{'' if devices == 1 else 's'}"


def _span(interval: Interval, words: Callable[[float], str]) -> str:
    """`52 s to 1 min 4 s`, and where the unit is the same `47 to 53 rows/s`."""
    low, high = words(interval.low), words(interval.high)
    number, _, unit = low.partition(" ")
    if unit and " " not in unit and high.partition(" ")[2] == unit:
        low = low if low == high else number
    return high if low == high else f"{low} to {high}"


def _compared(compared: Comparison, found: Measurement) -> str:
    one, other = (
        f"{_NAMES[canary.executor]} {_span(canary.seconds(found.rows), duration)}" for canary in found.canaries
    )
    if compared.sooner is None:
        text = f"no clear difference for these rows: {one}, {other}"
    else:
        text = f"{_NAMES[compared.sooner]} for these rows: {one}, {other}"
    if compared.crossing is not None:
        text += f"; the other one from about {compared.crossing:,} rows on"
    return text
