"""A loaded engine on some of a job's rows: how long it takes for them, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.data.dead_letters import tidy
from batchinfer.engines.protocol import Description, Engine, Prepared, Rows
from batchinfer.errors import BatchinferError, ModelError
from batchinfer.job.steps import Step
from batchinfer.pipeline.batching import Budget, batches, positions

TIMED_BATCHES = 3
_FAILURES = 24
"""After so many calls that raised, the rows of a group that raises are left out without looking for the one that does it."""


def load(engine: Engine, step: Step, device: str, precision: str, threads: int) -> Description:
    """Load the model. Raises ModelError also for what the user's own class raises while it is built."""
    try:
        return engine.load(device, precision, threads)
    except BatchinferError:
        raise
    except BaseException as e:
        raise ModelError(f"{step.name}.uri: {step.uri} can't be loaded: {type(e).__name__}: {e}") from e


@dataclass(frozen=True)
class Answers:
    """What the model said to rows of a sample."""

    positions: pa.Array
    """Of the rows in the sample that it answered, int64, ascending."""
    outputs: Mapping[str, pa.Array]
    """By output name, row by row those of `positions`."""
    error: str = ""
    """The first error that was met."""


@dataclass(frozen=True)
class Timed:
    """Batches that are timed."""

    payloads: list[Any] = field(default_factory=list)
    rows: float = 0
    """In them, each as many as its length is times the mean of the sample's: what its time says of a row of the job."""


def timed_batches(engine: Engine, sample: pa.Table | None, budget: Budget, most: int) -> Timed | None:
    """A few of the job's batches, from the longest to the shortest, that the model answers as it is loaded; none of a sample that
    can't be prepared: one with a bad row tells nothing of a precision. Where these are more than `most` rows of mean length, the middle
    one alone; None where that is, too. Of a large sample so many rows are prepared, spread over it, as three batches may have.
    """
    if sample is None or not len(sample):
        return Timed()
    if len(sample) > (enough := TIMED_BATCHES * budget.rows):
        sample = sample.take(np.linspace(0, len(sample) - 1, enough).astype(np.int64))
    try:
        prepared = engine.prepare(sample)
    except BatchinferError:
        raise
    except BaseException:  # noqa: BLE001 - a bad row: the run finds and reports it
        return Timed()
    cut = list(batches(len(prepared), prepared.lengths, budget))
    some = sorted({0, len(cut) // 2, len(cut) - 1})[:TIMED_BATCHES]
    if sum(_rows_of(prepared, cut[n]) for n in some) > most:
        some = [len(cut) // 2]
    if _rows_of(prepared, cut[some[0]]) > most:
        return None
    sound = [
        (_rows_of(prepared, cut[n]), payload) for n in some if _answers_to(engine, payload := prepared.batch(cut[n]))
    ]
    return Timed([p for _, p in sound], sum(n for n, _ in sound))


def _rows_of(prepared: Prepared, rows: Rows) -> float:
    """To how many rows of mean length a batch comes: a few long texts take the time of many short ones."""
    if prepared.lengths is None:
        return len(positions(rows))
    return float(prepared.lengths[rows].sum() / max(1.0, prepared.lengths.mean()))


def one_pace(
    engine: Engine,
    sample: pa.Table | None,
    budget: Budget,
    most: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float | None:
    """Seconds of a row of mean length, by one of the job's batches of middling ones; None where it and a warm-up are more than `most`
    such rows, or bad.
    """
    if sample is None or not len(sample):
        return None
    try:
        prepared = engine.prepare(sample)
        cut = list(batches(len(prepared), prepared.lengths, budget))
        middle, last = cut[len(cut) // 2], cut[-1]
        count = _rows_of(prepared, middle)
        if count + _rows_of(prepared, last) > most:
            return None
        engine.finish(engine.infer(prepared.batch(last)))
        start = clock()
        engine.finish(engine.infer(prepared.batch(middle)))
        return max(1e-9, (clock() - start) / count)
    except BatchinferError:
        raise
    except BaseException:  # noqa: BLE001 - a bad row: the run finds and reports it
        return None


def _answers_to(engine: Engine, payload: Any) -> bool:
    try:
        engine.finish(engine.infer(payload))
    except BatchinferError:
        raise
    except BaseException:  # noqa: BLE001 - a bad row: the run finds and reports it
        return False
    return True


def seconds_for(
    engine: Engine,
    timed: Timed,
    bound: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
    *,
    warm: bool = False,
) -> float:
    """Seconds for the batches, after a warm-up on the shortest unless it is `warm`; gives up once slower than `bound`."""
    if not warm:
        engine.finish(engine.infer(timed.payloads[-1]))
    total = 0.0
    for payload in timed.payloads:
        start = clock()
        engine.finish(engine.infer(payload))
        total += clock() - start
        if total > bound:
            break
    return total


def answers(engine: Engine, sample: pa.Table, budget: Budget) -> Answers:
    """The model's answers to a sample, batched as the job will batch its windows; rows that raise are left out.

    Raises what is no row's fault: BatchinferError.
    """
    left = _Failures(_FAILURES)
    found: list[tuple[np.ndarray, Mapping[str, pa.Array]]] = []
    for rows, prepared in _prepared(engine, sample, np.arange(len(sample)), left):
        for cut in batches(len(prepared), prepared.lengths, budget):
            found += _inferred(engine, prepared, rows, positions(cut), left)
    if not found:
        return Answers(pa.array([], pa.int64()), {}, left.first)
    at = np.concatenate([rows for rows, _ in found])
    order = pa.array(np.argsort(at))
    outputs = {name: pa.concat_arrays([given[name] for _, given in found]).take(order) for name in found[0][1]}
    return Answers(pa.array(np.sort(at), pa.int64()), outputs, left.first)


def why_broken(error: BaseException) -> str:
    """What a candidate raised, for people."""
    return str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {tidy(str(error))}"


@dataclass
class _Failures:
    """Calls that may still raise before the search for bad rows ends."""

    left: int
    first: str = ""

    def spent(self, error: BaseException) -> bool:
        """Count one; whether there is none left."""
        self.first = self.first or why_broken(error)
        self.left -= 1
        return self.left < 0


def _prepared(
    engine: Engine, sample: pa.Table, rows: np.ndarray, failures: _Failures
) -> Iterator[tuple[np.ndarray, Prepared]]:
    """The rows prepared, in one piece where none of them raises, else in those that don't."""
    try:
        prepared = engine.prepare(sample.take(pa.array(rows)) if len(rows) < len(sample) else sample)
    except BatchinferError:
        raise
    except BaseException as e:  # noqa: BLE001 - a bad row: the run finds and reports it
        if failures.spent(e) or len(rows) == 1:
            return
        for half in np.array_split(rows, 2):
            yield from _prepared(engine, sample, half, failures)
        return
    yield rows, prepared


def _inferred(
    engine: Engine, prepared: Prepared, rows: np.ndarray, cut: np.ndarray, failures: _Failures
) -> Iterator[tuple[np.ndarray, Mapping[str, pa.Array]]]:
    """Positions in the sample and outputs of a batch, in one piece where no row raises."""
    try:
        outputs = engine.finish(engine.infer(prepared.batch(cut)))
    except BatchinferError:
        raise
    except BaseException as e:  # noqa: BLE001 - a bad row: the run finds and reports it
        if failures.spent(e) or len(cut) == 1:
            return
        for half in np.array_split(cut, 2):
            yield from _inferred(engine, prepared, rows, half, failures)
        return
    yield rows[cut], outputs
