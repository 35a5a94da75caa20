"""Choose what a job leaves open, on its own rows: precision, batch budgets, output types."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.engines import registry
from batchinfer.engines.options import generates
from batchinfer.engines.protocol import Description, Engine, Prepared
from batchinfer.errors import BatchinferError
from batchinfer.job.steps import Batching, Step
from batchinfer.measure import tuning
from batchinfer.measure.candidates import Candidate
from batchinfer.measure.comparison import JobRows, Sample
from batchinfer.measure.fit import Fit, Fitting
from batchinfer.measure.output_types import output_schema
from batchinfer.measure.remembered import Remembered
from batchinfer.measure.settings import StepSettings
from batchinfer.measure.timing import load
from batchinfer.measure.trials import Trials
from batchinfer.pipeline.batching import Budget
from batchinfer.pipeline.breaker import CircuitBreaker
from batchinfer.precision import recipes
from batchinfer.precision.artefacts import cache_folder

CPU_TOKENS, GPU_TOKENS = 1024, 32768
"""Tokens of a batch: on CPUs small batches stay in the caches (MiniLM on two cores: 512 to 1,024 took 0.80 of the time of 2,048, 4,096
1.3 times as long), GPUs want large ones."""
TOKEN_ROWS = 512
GPU_STREAMS = 2
BATCH_BYTES, MOST_ROWS, MOST_PYTHON_ROWS = 2 << 20, 16384, 1024
"""Rows without lengths: as many as make 2 MiB, at most 16,384, or 1,024 where each row may become Python objects."""
CPU_IMAGE_BYTES, GPU_IMAGE_BYTES = 8 << 20, 32 << 20
"""Rows that are made larger than their columns, such as images: 13 of 224 x 224 pixels on a CPU, 55 on a GPU."""


def choose(
    engine: Engine,
    step: Step,
    windows: Iterable[pa.Table],
    batching: Batching,
    device: str,
    threads: int,
    rows: int,
    breaker: CircuitBreaker | None = None,
    pinned: pa.Schema | None = None,
    *,
    sample: Callable[[int], Sample | None] | None = None,
    known: Mapping[str, Any] | None = None,
    candidates: Sequence[Candidate] | None = None,
    remembered: Remembered | None = None,
    side_by_side: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> StepSettings:
    """Settle a step's settings and leave the engine loaded accordingly.

    Args:
        engine: not loaded yet.
        step: what the job file says of the model.
        windows: tables of the step's input columns, in input order; read as far as needed.
        batching: what the job file says of batches.
        device: where the model runs.
        threads: CPU threads of the model.
        rows: rows of the job for one worker, to see what pays.
        breaker: opens when all of the first rows fail alike; None for a job without one.
        pinned: output columns whose types stand already.
        sample: gives rows spread over the job for the quality gate; None: they are taken from the first window.
        known: what says that the model and the device are those of another job, a JSON value; None: nothing is remembered.
        candidates: precisions that the engine can be loaded at, the reference first; None: those that the registry knows.
        remembered: figures of former runs; None: those in the user's cache folder.
        side_by_side: whether the engine can be called from several threads at a time.
        clock: seconds, never going back.

    Raises:
        CircuitBreakerError: the first rows all fail with one error type.
        GateError: the precision that is asked for fails the quality gate.
        ModelError: the model can't be loaded, or lacks an output.

    """
    tables = iter(windows)
    first = next(tables, None)
    place = {"device": device, "threads": threads, "batching": batching.model_dump(mode="json")}
    key = {} if known is None else {**known, **place}
    calls = _calls(step, device, threads) if side_by_side else 1
    trials = Trials(
        engine,
        step,
        candidates or candidates_of(step, device),
        device,
        threads,
        lambda: budget_for(engine, step, first, batching, device),
        JobRows(first, rows, sample or (lambda most: _of_the_first(first, most, rows)), calls),
        remembered or Remembered(cache_folder()),
        key,
        clock,
    )
    description, measured = trials.auto() if step.precision == "auto" else trials.asked(step.precision)
    fit = _fitted(trials, step, description, first, batching, threads if side_by_side else 1)
    told = {"applied": dict(description.applied), "provider": description.provider, "fit": dict(fit.figures)}
    measured = {**measured, **{name: value for name, value in told.items() if value}}
    rest = itertools.chain([] if first is None else [first], tables)
    breaker = breaker or CircuitBreaker(enabled=False)
    outputs = output_schema(engine, step, description, fit.budget, rest, breaker, pinned)
    return StepSettings(
        description.precision, fit.budget, threads // fit.streams, outputs, fit.streams, measured=measured
    )


def _fitted(
    trials: Trials, step: Step, description: Description, first: pa.Table | None, batching: Batching, threads: int
) -> Fit:
    """Budget and streams of the model that is loaded: the defaults where nothing is left open, or trying costs too much of the job."""
    engine, device, key, calls = trials.engine, trials.device, trials.key, trials.calls_of(description.precision)
    budget = budget_for(engine, step, first, batching, device)
    knob = _knob(step, budget, batching)
    shared = _shared(device, description, threads)
    if calls > shared:
        load(engine, step, device, description.precision, threads)
        calls = 1
    if first is None or (knob is None and shared == 1) or (job := trials.job()) is None:
        return Fit(budget, calls)
    return Fitting(
        engine,
        # The model must be told of another number of threads; on a GPU it has no use for them.
        lambda each: load(engine, step, device, description.precision, each) if device == "cpu" else None,
        first,
        budget,
        knob,
        shared,
        calls,
        job.row_seconds,
        job.budget - trials.spent,
        trials.remembered,
        {**key, "precision": description.precision} if key else {},
        trials.clock,
    ).fit()


def _knob(step: Step, budget: Budget, batching: Batching) -> str | None:
    """What of a budget is left open; the calls of a user's class are the user's business, and those that generate are long enough."""
    if generates(step):
        return None
    if budget.tokens is not None:
        return "tokens" if batching.tokens == "auto" else None
    return "rows" if batching.rows == "auto" and step.engine != "python" else None


def _calls(step: Step, device: str, threads: int) -> int:
    """Calls at a time that the model is loaded for at first. A graph's library is loaded for one: each call has weights of its own there."""
    return tuning.usual(threads) if device == "cpu" and registry.uses_torch(step) else 1


def _shared(device: str, description: Description, threads: int) -> int:
    """Into how many calls at a time the threads may be split. On a GPU two: while one is computed, the other's batch is brought there and
    its outputs back.
    """
    if not description.side_by_side:
        return 1
    return threads if device == "cpu" else min(threads, GPU_STREAMS)


def candidates_of(step: Step, device: str) -> list[Candidate]:
    """The precisions that a step's engine can be loaded at on a device, the reference first."""
    names = registry.precisions(step, device.partition(":")[0])
    return [Candidate(n, recipes.bits(n), registry.compiles(step, n)) for n in names]


def _of_the_first(first: pa.Table | None, most: int, rows: int) -> Sample | None:
    """Rows spread evenly over the first window."""
    if first is None or not len(first):
        return None
    some = first.take(np.unique(np.linspace(0, len(first) - 1, most).astype(np.int64))) if len(first) > most else first
    return Sample(some, whole=len(some) >= rows)


def budget_for(engine: Engine, step: Step, sample: pa.Table | None, batching: Batching, device: str) -> Budget:
    """The bounds of a batch: as asked, else what the engine has a use for, else from the device and the size of a row."""
    if (useful := registry.rows_of_call(step, device.partition(":")[0])) is not None:
        given = None if batching.tokens == "auto" else batching.tokens
        return Budget(useful if batching.rows == "auto" else batching.rows, given)
    sized = _prepare_some(engine, sample)
    if sized is not None and sized.lengths is not None:
        tokens = (CPU_TOKENS if device == "cpu" else GPU_TOKENS) if batching.tokens == "auto" else batching.tokens
        return Budget(TOKEN_ROWS if batching.rows == "auto" else batching.rows, tokens)
    if batching.rows != "auto":
        return Budget(batching.rows, None if batching.tokens == "auto" else batching.tokens)
    most = MOST_PYTHON_ROWS if step.engine == "python" else MOST_ROWS
    if sized is not None and sized.row_bytes is not None:
        rows = (CPU_IMAGE_BYTES if device == "cpu" else GPU_IMAGE_BYTES) / sized.row_bytes
    else:
        rows = BATCH_BYTES / max(1.0, sample.nbytes / len(sample) if sample is not None and len(sample) else 1)
    return Budget(int(np.clip(rows, 1, most)), None if batching.tokens == "auto" else batching.tokens)


def _prepare_some(engine: Engine, sample: pa.Table | None) -> Prepared | None:
    """The first row that can be prepared."""
    for at in range(min(100, 0 if sample is None else len(sample))):
        try:
            return engine.prepare(sample.slice(at, 1)) if sample is not None else None
        except BatchinferError:
            raise
        except BaseException:  # noqa: BLE001, S112 - a bad row: the run finds and reports it
            continue
    return None
