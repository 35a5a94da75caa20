"""The types of a job's outputs: declared, known to the engine, or seen in the answers to the first rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pyarrow as pa

from batchinfer.data.dead_letters import tidy
from batchinfer.data.part import PartWriter
from batchinfer.data.types import parse_type
from batchinfer.engines.protocol import Description, Engine
from batchinfer.errors import BatchinferError, ModelError
from batchinfer.job.steps import Step
from batchinfer.pipeline.batching import Budget
from batchinfer.pipeline.breaker import CircuitBreaker

NULL_ROWS = 4096
"""After so many rows with no value for an output, it is said that looking on costs as much as predicting."""

log = logging.getLogger(__name__)


def output_schema(
    engine: Engine,
    step: Step,
    description: Description,
    budget: Budget,
    windows: Iterator[pa.Table],
    breaker: CircuitBreaker,
    pinned: pa.Schema | None = None,
) -> pa.Schema:
    """Every output column with its type: pinned before, declared, known to the engine, or first seen."""
    stands = {f.name: f.type for f in pinned or () if not pa.types.is_null(f.type)}
    types = {
        name: parse_type(o.type) if o.type else description.outputs.get(name) for name, o in step.outputs.items()
    } | {name: stands[o.column] for name, o in step.outputs.items() if o.column in stands}
    if any(t is None for t in types.values()):
        _see_types(engine, step, types, budget, windows, breaker)
    seen = {name: pa.null() if kind is None else kind for name, kind in types.items()}  # a struct of no fields is false
    schema = pa.schema([pa.field(o.column, seen[name]) for name, o in step.outputs.items()])
    for name, kind in zip(step.outputs, schema.types, strict=True):
        _require_storable(step, name, kind)
    return schema


def _require_storable(step: Step, name: str, kind: pa.DataType) -> None:
    row = pa.Table.from_arrays([pa.nulls(1, kind)], names=["value"])
    try:
        writer = PartWriter(row.schema)
        writer.write(row)
        writer.finish({})
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as e:
        raise ModelError(
            f"step {step.name}: output {name!r} is {kind}, which Parquet can't hold ({e}): declare another type, "
            f"{step.name}.outputs.{name}: {{column: {step.outputs[name].column}, type: string}}"
        ) from e


def _is_open(kind: pa.DataType | None) -> bool:
    """Whether a type isn't known to its last level, as that of an empty list."""
    if kind is None or pa.types.is_null(kind):
        return True
    return any(_is_open(kind.field(n).type) for n in range(kind.num_fields))


def _see_types(
    engine: Engine,
    step: Step,
    types: dict[str, pa.DataType | None],
    budget: Budget,
    windows: Iterator[pa.Table],
    breaker: CircuitBreaker,
) -> None:
    rows = 0
    warned = False
    open_types = [name for name, kind in types.items() if kind is None]
    for outputs in _answers(engine, budget, windows):
        if isinstance(outputs, BaseException):
            rows += 1
            breaker.failed([type(outputs).__name__], tidy(str(outputs)))
        else:
            rows += max((len(a) for a in outputs.values()), default=0)
            breaker.succeeded()
            _take_types(step, types, open_types, outputs)
        unseen = [name for name in open_types if _is_open(types[name])]
        if not unseen:
            return
        if rows >= NULL_ROWS and not warned:
            warned = True
            log.warning(
                "step %s: output %r has no value in the first %s rows, so more of the input is predicted, only to learn its type: "
                "declare it to save that, %s.outputs.%s: {column: %s, type: string}",
                step.name,
                unseen[0],
                f"{rows:,}",
                step.name,
                unseen[0],
                step.outputs[unseen[0]].column,
            )


def _take_types(
    step: Step, types: dict[str, pa.DataType | None], open_types: list[str], outputs: dict[str, pa.Array]
) -> None:
    """Note the types that an answer shows. Raises ModelError where it lacks an output."""
    for name in open_types:
        if not _is_open(types[name]):
            continue
        if name not in outputs:
            raise ModelError(
                f"step {step.name}: the model gave no output {name!r}, only {', '.join(map(repr, outputs)) or 'none'}: "
                f"correct {step.name}.outputs"
            )
        if outputs[name].null_count < len(outputs[name]):
            types[name] = outputs[name].type


def _answers(
    engine: Engine, budget: Budget, windows: Iterator[pa.Table]
) -> Iterator[dict[str, pa.Array] | BaseException]:
    """The model's answers to the job's rows, the first batch a small one; rows that raise give what they raise, one by one."""
    size = min(16, budget.rows)
    for window in windows:
        start = 0
        while start < len(window):
            table = window.slice(start, size)
            start, size = start + len(table), budget.rows
            answer = _attempt(engine, table)
            if isinstance(answer, BaseException):
                yield from (_attempt(engine, table.slice(at, 1)) for at in range(len(table)))
            else:
                yield answer


def _attempt(engine: Engine, table: pa.Table) -> dict[str, pa.Array] | BaseException:
    """The model's answer, or what a bad row raises: the run finds and reports it."""
    try:
        return _answer(engine, table)
    except BatchinferError:
        raise
    except BaseException as e:  # noqa: BLE001 - a model may raise anything
        return e


def _answer(engine: Engine, table: pa.Table) -> dict[str, pa.Array]:
    prepared = engine.prepare(table)
    return dict(engine.finish(engine.infer(prepared.batch(slice(0, len(table))))))
