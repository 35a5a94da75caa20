"""Choose what a job leaves open, on its own first rows: precision, batch budgets, output types."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.data.dead_letters import tidy
from batchinfer.engines import registry
from batchinfer.engines.protocol import Description, Engine, Prepared
from batchinfer.errors import BatchinferError, ModelError
from batchinfer.job.spec import Batching, Step
from batchinfer.measure.output_types import output_schema
from batchinfer.measure.settings import Settings
from batchinfer.pipeline.batching import Budget, batches, positions
from batchinfer.pipeline.breaker import CircuitBreaker
from batchinfer.precision.recipes import JUDGED

CPU_TOKENS, GPU_TOKENS = 1024, 32768
"""Tokens of a batch: on CPUs small batches stay in the caches (MiniLM on two cores: 512 to 1,024 took 0.80 of the time of 2,048, 4,096
1.3 times as long), GPUs want large ones."""
TOKEN_ROWS = 512
BATCH_BYTES, MOST_ROWS, MOST_PYTHON_ROWS = 2 << 20, 16384, 1024
"""Rows without lengths: as many as make 2 MiB, at most 16,384, or 1,024 where each row may become Python objects."""
SAMPLE_BATCHES = 3
PAYBACK = 20
"""A job must have this many times the sampled rows for a measurement of precisions to pay."""


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
) -> Settings:
    """Settle a job's settings and leave the engine loaded accordingly.

    Args:
        engine: not loaded yet.
        step: what the job file says of the model.
        windows: tables of the step's input columns, in input order; read as far as needed.
        batching: what the job file says of batches.
        device: where the model runs.
        threads: CPU threads of the model.
        rows: rows of the job, to see what pays.
        breaker: opens when all of the first rows fail alike; None for a job without one.
        pinned: output columns whose types stand already.

    Raises:
        CircuitBreakerError: the first rows all fail with one error type.
        ModelError: the model can't be loaded, or lacks an output.

    """
    tables = iter(windows)
    first = next(tables, None)
    precision: str = step.precision
    measured: dict[str, Any] = {}
    if precision == "auto":
        precision, measured = _fastest(engine, step, first, batching, device, threads, rows)
    description = measured.pop("description", None) or load(engine, step, device, precision, threads)
    budget = budget_for(engine, step, first, batching, device)
    rest = itertools.chain([] if first is None else [first], tables)
    breaker = breaker or CircuitBreaker(enabled=False)
    outputs = output_schema(engine, step, description, budget, rest, breaker, pinned)
    return Settings(description.precision, budget, threads, outputs, measured)


def load(engine: Engine, step: Step, device: str, precision: str, threads: int) -> Description:
    """Load the model. Raises ModelError also for what the user's own class raises while it is built."""
    try:
        return engine.load(device, precision, threads)
    except BatchinferError:
        raise
    except BaseException as e:
        raise ModelError(f"{step.name}.uri: {step.uri} can't be loaded: {type(e).__name__}: {e}") from e


def budget_for(engine: Engine, step: Step, sample: pa.Table | None, batching: Batching, device: str) -> Budget:
    """The bounds of a batch: as asked, else from the device and the size of a row."""
    sized = _prepare_some(engine, sample)
    if sized is not None and sized.lengths is not None:
        tokens = (CPU_TOKENS if device == "cpu" else GPU_TOKENS) if batching.tokens == "auto" else batching.tokens
        return Budget(TOKEN_ROWS if batching.rows == "auto" else batching.rows, tokens)
    if batching.rows != "auto":
        return Budget(batching.rows, None if batching.tokens == "auto" else batching.tokens)
    most = MOST_PYTHON_ROWS if step.engine == "python" else MOST_ROWS
    row_bytes = sample.nbytes / len(sample) if sample is not None and len(sample) else 1
    return Budget(
        int(np.clip(BATCH_BYTES / max(1.0, row_bytes), 1, most)), None if batching.tokens == "auto" else batching.tokens
    )


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


def _fastest(
    engine: Engine, step: Step, sample: pa.Table | None, batching: Batching, device: str, threads: int, rows: int
) -> tuple[str, dict[str, Any]]:
    """Time each precision that the engine has on a few of the job's own batches; the fastest, the figures, and what is loaded."""
    candidates = [name for name in registry.precisions(step) if name not in JUDGED]
    description = load(engine, step, device, candidates[0], threads)
    if len(candidates) == 1:
        return candidates[0], {"description": description}
    budget = budget_for(engine, step, sample, batching, device)
    try:
        payloads = _payloads(engine.prepare(sample), budget) if sample is not None and len(sample) else []
    except BatchinferError:
        raise
    except BaseException:  # noqa: BLE001 - the sample has a bad row: precision is then left at the first candidate
        payloads = []
    payloads = [(n, p) for n, p in payloads if _answers_to(engine, p)]
    sampled = sum(n for n, _ in payloads)
    if sampled * PAYBACK > rows or not payloads:
        return candidates[0], {
            "description": description,
            "precision": f"{candidates[0]}: the job is too small, or its first rows too bad, for measuring to pay",
        }
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    loaded: str | None = candidates[0]
    for candidate in candidates:
        try:
            if candidate != loaded:
                loaded = None  # a load that fails may leave the engine with no model
                description = load(engine, step, device, candidate, threads)
                loaded = candidate
            seconds[candidate] = _time(
                engine, [p for _, p in payloads], bound=min(seconds.values(), default=float("inf"))
            )
        except ModelError as e:
            failed[candidate] = str(e)
        except BatchinferError:
            raise
        except BaseException as e:  # noqa: BLE001 - the rows are sound at the first candidate: this one can't do what they need
            failed[candidate] = f"{type(e).__name__}: {tidy(str(e))}"
    best = min(seconds, key=seconds.__getitem__) if seconds else candidates[0]
    if best != loaded:
        description = load(engine, step, device, best, threads)
    figures = {name: round(sampled / s, 1) for name, s in seconds.items()}
    return best, {"description": description, "rows_per_second": figures, "failed": failed}


def _answers_to(engine: Engine, payload: Any) -> bool:
    """Whether the model, as it is loaded, takes a batch: one with a bad row tells nothing of a precision."""
    try:
        engine.finish(engine.infer(payload))
    except BatchinferError:
        raise
    except BaseException:  # noqa: BLE001 - a bad row: the run finds and reports it
        return False
    return True


def _payloads(prepared: Prepared, budget: Budget) -> list[tuple[int, Any]]:
    """Rows and payload of a few batches, from the longest to the shortest."""
    cut = list(batches(len(prepared), prepared.lengths, budget))
    some = sorted({0, len(cut) // 2, len(cut) - 1})[:SAMPLE_BATCHES]
    return [(len(positions(cut[n])), prepared.batch(cut[n])) for n in some]


def _time(engine: Engine, payloads: list[Any], bound: float) -> float:
    """Seconds for the payloads after a warm-up on the shortest; gives up once slower than `bound`."""
    engine.finish(engine.infer(payloads[-1]))
    total = 0.0
    for payload in payloads:
        start = time.perf_counter()
        engine.finish(engine.infer(payload))
        total += time.perf_counter() - start
        if total > bound:
            break
    return total
