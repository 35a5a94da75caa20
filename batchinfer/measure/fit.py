"""What fits a loaded model to its device: streams and the budget of a batch, tried on the job's own rows as far as that pays."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.engines.faults import Fault, fault_of
from batchinfer.engines.protocol import Engine, Prepared
from batchinfer.errors import BatchinferError
from batchinfer.measure import tuning
from batchinfer.measure.remembered import Remembered
from batchinfer.pipeline.batching import Budget, batches

TOKENS = tuple(2**n for n in range(8, 19))
"""Budgets that are tried, 256 to 262,144 tokens."""
ROWS = tuple(2**n for n in range(2, 18))
"""Likewise for rows without lengths, 4 to 131,072."""
TRIES = 6
"""Values that the time for measuring should do for."""
ENOUGH = 0.2
"""Seconds that a value is timed for, where there is time and the rows are answered sooner: they are answered again. What lasts some
milliseconds says more of the moment than of the value."""
MOST_BYTES = 256 << 20
"""Of rows that are made larger than their columns: all that a value is timed on are in memory at a time."""
LEAST_BATCHES = 2
"""A value is timed on so many batches for each stream, at least: fewer say nothing."""


@dataclass(frozen=True)
class Fit:
    """What was found."""

    budget: Budget
    streams: int = 1
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Rows per second by what was tried, for the report; empty where nothing was."""


@dataclass
class Fitting:
    """See `fit`.

    Args:
        engine: loaded, with `threads` CPU threads.
        load: loads it again at the same precision with another number of threads.
        rows: of the job, with the step's input columns.
        budget: the default.
        knob: what of the budget may change: `tokens`, `rows`, or None where the job file fixes it.
        threads: CPU threads of the worker, which the streams share; 1 where there is to be one stream.
        calls: streams that the engine is loaded for, and that there are where nothing can be tried.
        row_seconds: of a row, by what is known.
        seconds: that measuring may take.
        remembered: figures of former runs.
        key: what they depend on; empty where that isn't known.
        clock: seconds, never going back.

    """

    engine: Engine
    load: Callable[[int], object]
    rows: pa.Table
    budget: Budget
    knob: str | None
    threads: int
    calls: int
    row_seconds: float
    seconds: float
    remembered: Remembered
    key: Mapping[str, Any]
    clock: Callable[[], float] = time.perf_counter
    _thinned: bool = field(default=False, init=False)
    """Whether there was time for some of the rows alone."""
    _preparing: float = field(default=0.0, init=False)
    """Seconds that making the batches took last."""
    _cut_short: bool = field(default=False, init=False)
    """Whether a value was left out for lack of time: a larger job would try it."""

    def __post_init__(self) -> None:
        """As the engine is loaded, and what is known of it."""
        self._streams, self._row_seconds = self.calls, self.row_seconds

    def fit(self) -> Fit:
        """The streams first, as they win more, then the budget; the engine is left loaded accordingly. Raises BatchinferError."""
        if self.key and (known := self.remembered.find(self._key)) is not None:
            found = Fit(Budget(**known["budget"]), known["streams"], {**known["figures"], "known_before": True})
            self._spread(found.streams)
            return found
        prepared = self._prepared()
        if prepared is None:
            return Fit(self.budget, self.calls)
        end = self.clock() + self.seconds
        figures: dict[str, Any] = {}
        streams = self.calls
        if self.threads > 1:
            streams, paces = tuning.split(self.calls, self.threads, lambda n: self._pace(prepared, self.budget, n, end))
            figures["streams"] = _told(paces)
            self._spread(streams)
        budget = self.budget
        if self.knob is not None:
            name = self.knob
            rungs = TOKENS if name == "tokens" else ROWS
            best, paces = tuning.climb(
                getattr(budget, name),
                rungs,
                lambda n: self._pace(prepared, replace(budget, **{name: n}), streams, end),
            )
            figures[name] = _told(paces)
            budget = replace(budget, **{name: best})
        found = Fit(budget, streams, figures if any(len(paces) > 1 for paces in figures.values()) else {})
        if self.key and found.figures and not self._cut_short:
            value = {"rows": budget.rows, "tokens": budget.tokens}
            self.remembered.keep(self._key, {"budget": value, "streams": streams, "figures": found.figures})
        return found

    @property
    def _key(self) -> dict[str, Any]:
        return {**self.key, "fit": [self.budget.rows, self.budget.tokens, self.knob, self.threads]}

    def _prepared(self) -> Prepared | None:
        """As many rows, spread over those that there are, as the time does for; None where that is too little or one of them is bad."""
        most = int(self.seconds / TRIES / max(self.row_seconds, 1e-9))
        if most < 1 or not len(self.rows):
            return None
        self._thinned = most < len(self.rows)
        try:
            prepared = self.engine.prepare(self._some(most))
            fit = len(prepared) if prepared.row_bytes is None else max(1, MOST_BYTES // prepared.row_bytes)
            return prepared if fit >= len(prepared) else self.engine.prepare(self._some(fit))
        except BatchinferError:
            raise
        except BaseException:  # noqa: BLE001 - a bad row: the run finds and reports it
            return None

    def _some(self, most: int) -> pa.Table:
        """At most so many of the rows, spread over them."""
        if most >= len(self.rows):
            return self.rows
        return self.rows.take(pa.array(np.unique(np.linspace(0, len(self.rows) - 1, most).astype(np.int64))))

    def _pace(self, prepared: Prepared, budget: Budget, streams: int, end: float) -> float | None:
        """Rows per second at a budget with so many streams; None where it doesn't fit, a row is bad, or time is short."""
        cut = list(batches(len(prepared), prepared.lengths, budget))
        enough = min(ENOUGH, self.seconds / TRIES)
        few = len(cut) < LEAST_BATCHES * streams
        late = self.clock() + self._preparing + max(enough, len(prepared) * self._row_seconds) > end
        if few or late:
            self._cut_short |= late or self._thinned
            return None
        self._spread(streams)
        try:
            began = self.clock()
            payloads = [prepared.batch(rows) for rows in cut]
            self._preparing = self.clock() - began
            seconds = self._timed(payloads, streams)
            times = int(enough / max(1e-9, seconds))
            if times > 1:
                seconds = self._timed(payloads * times, streams) / times
        except BatchinferError:
            raise
        except BaseException as e:
            if fault_of(e) is Fault.POISONED:
                raise
            return None
        pace = len(prepared) / max(1e-9, seconds)
        self._row_seconds = min(self._row_seconds, 1 / pace)  # what was known is of the model's first calls
        return pace

    def _spread(self, streams: int) -> None:
        """Load the model for so many streams, where it isn't yet."""
        if streams != self._streams:
            self.load(self.threads // streams)
            self._streams = streams

    def _timed(self, payloads: Sequence[Any], streams: int) -> float:
        """Seconds that each of so many threads was at work on the payloads, on average: in a job none of them is left alone at the end.

        Before that each answers the longest, which takes the memory that the others take again.
        """
        if streams == 1:
            self._answer(payloads[0])
            start = self.clock()
            for payload in payloads:
                self._answer(payload)
            return self.clock() - start
        left, ready = iter(payloads), threading.Barrier(streams)
        lock, errors = threading.Lock(), []
        spans: list[float] = []

        def take() -> Any:
            with lock:
                return next(left, None)

        def work() -> None:
            try:
                self._answer(payloads[0])
                ready.wait()
                began = self.clock()
                while (payload := take()) is not None:
                    self._answer(payload)
                spans.append(self.clock() - began)
            except BaseException as e:  # noqa: BLE001 - raised below, on the caller's thread
                errors.append(e)
                ready.abort()

        team = [threading.Thread(target=work, name=f"batchinfer-fit-{n}", daemon=True) for n in range(streams)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        if errors:
            raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
        return sum(spans) / streams

    def _answer(self, payload: Any) -> None:
        self.engine.finish(self.engine.infer(payload))


def _told(paces: Mapping[int, float | None]) -> dict[str, float | None]:
    return {str(value): None if pace is None else round(pace, 1) for value, pace in paces.items()}
