"""How far a run is: the figures, the events worth a line, and plain lines for where there is no terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

from batchinfer.cli.render import duration, percent, rate
from batchinfer.cli.streams import tell
from batchinfer.measure.cascade import Point
from batchinfer.measure.settings import Settings, StepSettings
from batchinfer.measure.verdict import Verdict
from batchinfer.plan.describe import count
from batchinfer.run.events import Event, Finished, GivenUp, Retried, RunResult, Settled, Started, Ticked
from batchinfer.run.stop import StopRequest
from batchinfer.worker.context import Progress

PACE_SECONDS = 20.0
"""The rate shown is that of the last so many seconds."""
CURVE = 8
"""Points of a cascade's trade-off that are shown."""
FIRST_LINE_SECONDS, LINE_SECONDS, LATER_LINE_SECONDS, LATER = 1.0, 5.0, 30.0, 600.0


class Display(Protocol):
    """Shows a run while it goes on; a context."""

    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""


class Tally:
    """The figures of a run, from its events."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()
        self._began = clock()
        self._settled: float | None = None
        self.name = ""
        self.planned = self.rows = self.dead = 0
        self.workers: list[Progress] = []
        self.started = False
        self.result: RunResult | None = None
        self.work_seconds = 0.0
        """From the model being loaded to the end."""

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._began

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        now = self._clock()
        if isinstance(event, Started):
            self.started = True
            self.name, self.planned, self.rows = event.plan.spec.name, event.plan.rows, event.decided_rows
        elif isinstance(event, Settled):
            self._settled = now
            self._samples.append((now, self.rows))
        elif isinstance(event, Ticked):
            self.workers = event.progress
            in_hand = sum(p.in_hand for p in event.progress)
            self.rows = max(self.rows, min(self.planned, event.decided_rows + in_hand))
            self.dead = max(self.dead, sum(p.dead for p in event.progress))
            self._samples.append((now, self.rows))
            while len(self._samples) > 2 and self._samples[0][0] < now - PACE_SECONDS:
                self._samples.popleft()
        elif isinstance(event, Finished):
            self.result = event.result
            self.work_seconds = now - self._settled if self._settled is not None else 0.0

    @property
    def pace(self) -> float:
        """Rows a second of late."""
        if len(self._samples) < 2:
            return 0.0
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    @property
    def figures(self) -> list[str]:
        """Pace, time to go, and dead rows, in words."""
        words = []
        if self.pace > 0:
            words.append(rate(self.pace))
            if self.rows < self.planned:
                words.append(f"ETA {duration((self.planned - self.rows) / self.pace, whole_seconds=True)}")
        return [*words, *([f"{self.dead:,} dead"] if self.dead else [])]

    @property
    def share(self) -> str:
        """Rows done, as a percentage."""
        return percent(self.rows, self.planned)


def note(event: Event) -> str | None:
    """An event in words, where it is worth a line."""
    if isinstance(event, Started):
        plan = event.plan
        if event.decided == len(plan.shards):
            return f"resumed: all {event.decided:,} shards were done before"
        if event.decided:
            return f"resumed: {event.decided:,} of {len(plan.shards):,} shards were done before ({event.decided_rows:,} of {plan.rows:,} rows)"
        return f"{plan.rows:,} rows in {count(len(plan.shards), 'shard')}; loading the model"
    if isinstance(event, Settled):
        running = f"running with {count(event.workers, 'worker')}, {precisions(event.settings)}"
        return "\n".join(
            [running, *(cascade(*named) for named in event.settings.models.items() if named[1].threshold is not None)]
        )
    if isinstance(event, Retried):
        where = ", its model in a child process" if event.quarantined else ""
        return f"{event.failed.error}; it was replaced, and shard {event.failed.shard} is tried again{where} (death {event.deaths})"
    if isinstance(event, GivenUp):
        return f"shard {event.failed.shard} given up: {event.failed.error}"
    return None


def precisions(settings: Settings) -> str:
    """The precision of each model, and why."""
    alike: dict[str, list[str]] = {}
    for name, step in settings.models.items():
        alike.setdefault(precision(step), []).append(name)
    if len(alike) <= 1:
        return "".join(alike) or "no model"
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in alike.items())


def cascade(name: str, settings: StepSettings) -> str:
    """The threshold of a cascade, and what others would have done."""
    found = settings.measured.get("cascade")
    if found is None:
        return f"{name} takes every row: there is nothing to compare"
    points = [Point(**p) for p in found["curve"]]
    some = points[:: max(1, len(points) // CURVE)]
    return "\n".join(
        [
            f"{name} takes rows of a confidence below {Point(**found['chosen'])}, by {found['rows']:,} rows; others would do:",
            *(f"  {point}" for point in some),
        ]
    )


def precision(settings: StepSettings) -> str:
    """The precision that runs, and why: what was measured, what can't run, what wasn't tried, and what the gate says."""
    measured = settings.measured
    text = f"precision {settings.precision}"
    if rates := measured.get("rows_per_second"):
        when = "measured before" if measured.get("known_before") else "measured"
        text += f" ({when}: {', '.join(f'{name} {rate(pace)}' for name, pace in rates.items())})"
    why = measured.get("choice") or measured.get("precision")
    text += f": {str(why).removeprefix(f'{settings.precision}: ')}" if why else ""
    if layers := (applied := measured.get("applied") or {}).get("layers"):
        text += f"; {applied['quantized_layers']:,} of {layers:,} layers quantized{', compiled' if applied['compiled'] else ''}"
    if settings.streams > 1:
        text += f"; {calls(settings)}"
    if provider := measured.get("provider"):
        text += f"; on {provider}"
    for name, error in (measured.get("failed") or {}).items():
        text += f"; {name} can't run: {error}"
    for reason, names in _by_reason(measured.get("skipped") or {}).items():
        text += f"; {', '.join(names)} {'is' if len(names) == 1 else 'are'} skipped: {reason}"
    for name, verdict in (measured.get("gates") or {}).items():
        if name != settings.precision:
            text += f"; {name} isn't taken: the gate {Verdict.from_json(verdict)}"
    said = gate(settings)
    return f"{text}; {said}" if said else text


def calls(settings: StepSettings) -> str:
    """How a worker spends its CPU threads on calls of the model."""
    threads = count(settings.threads, "CPU thread")
    return threads if settings.streams == 1 else f"{settings.streams} calls at a time, of {threads} each"


def _by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    return names


def gate(settings: StepSettings) -> str:
    """What the quality gate says of the precision that runs; empty where nothing was compared or to be."""
    verdict = settings.measured.get("gate")
    if not verdict:
        return ""
    if "not_compared" in verdict:
        return f"not compared with fp32: {verdict['not_compared']}"
    return f"gate {Verdict.from_json(verdict)}"


class PlainDisplay:
    """A line every few seconds on stderr.

    Args:
        tally: the figures; must be told of each event first.
        stop: whether the run was asked to end.
        lines: whether to write the periodic lines, or failures alone.

    """

    def __init__(self, tally: Tally, stop: StopRequest, *, lines: bool = True) -> None:
        self._tally, self._stop, self._lines = tally, stop, lines
        self._next = 0.0
        self._said_stopping = False

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        text = note(event)
        if text is not None and (self._lines or isinstance(event, Retried | GivenUp)):
            tell(f"batchinfer: {text}")
        now = self._tally.seconds
        if isinstance(event, Settled):
            self._next = now + FIRST_LINE_SECONDS
        if self._stop and not self._said_stopping:
            self._said_stopping = True
            tell(f"batchinfer: {stopping(self._stop)}")
        if self._lines and isinstance(event, Ticked) and now >= self._next:
            self._next = now + (LINE_SECONDS if now < LATER else LATER_LINE_SECONDS)
            tell(f"batchinfer: {self._line()}")

    def _line(self) -> str:
        tally = self._tally
        return ", ".join([f"{tally.rows:,}/{tally.planned:,} rows ({tally.share})", *tally.figures])


def stopping(stop: StopRequest) -> str:
    """What happens after a request to stop."""
    again = "; once more to exit at once" if stop.cancelled else ""
    return f"{stop.reason}: finishing the batches in hand and saving them{again}"
