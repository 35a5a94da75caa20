"""Bring a model's outputs to the pinned columns and types, and name the rows whose outputs are not valid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchinfer.errors import ModelError
from batchinfer.job.steps import AnyStep, OnInvalidOutput
from batchinfer.worker.context import RowError

_SHOWN = 60
"""Characters of a value in a message."""


def check(
    columns: Mapping[str, pa.Array], rows: int, step: AnyStep, schema: pa.Schema, on_invalid: OnInvalidOutput
) -> tuple[list[pa.Array], dict[int, RowError]]:
    """The step's output columns with the pinned types, and the rows that are dead because of them.

    Args:
        columns: one array per output of the model, by the model's name.
        rows: how many rows the model got.
        step: maps the model's names to columns.
        schema: the pinned output columns, in the order of `step.outputs`.
        on_invalid: what to do with NaN, infinite values, and values that don't cast safely to the pinned type.

    Raises:
        ModelError: an output is missing or has another number of values than the model got rows; or, where `on_invalid` is
            `fail`, a value is invalid.

    """
    arrays: list[pa.Array] = []
    invalid: dict[int, RowError] = {}
    for name, field in zip(step.outputs, schema, strict=True):
        array, errors = _conform(_output(columns, name, rows, step), field)
        if on_invalid != "keep":
            errors = {**_not_finite(array, field.name), **errors}
        if errors and on_invalid == "fail":
            at, error = min(errors.items())
            raise ModelError(
                f"step {step.name}: row {at} of a batch of {rows}: {error.message} (errors.on_invalid_output is fail)"
            )
        invalid |= errors
        arrays.append(array)
    return arrays, invalid


def _output(columns: Mapping[str, pa.Array], name: str, rows: int, step: AnyStep) -> pa.Array:
    if name not in columns:
        raise ModelError(
            f"step {step.name}: the model gave no output {name!r}, only {', '.join(map(repr, columns)) or 'none'}: correct {step.name}.outputs"
        )
    if len(columns[name]) != rows:
        raise ModelError(
            f"step {step.name}: output {name!r} has {len(columns[name])} values for {rows} rows: a model must give one per row, in their order"
        )
    return columns[name]


def _conform(array: pa.Array, field: pa.Field) -> tuple[pa.Array, dict[int, RowError]]:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if array.type == field.type:
        return array, {}
    if pa.types.is_integer(array.type) and pa.types.is_decimal(field.type):
        array = _widened(array, field.type)
    try:
        return array.cast(field.type), {}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        pass
    values, errors = [], {}
    for at in range(len(array)):
        one = array.slice(at, 1)
        try:
            values.append(pa.nulls(1, field.type) if one.null_count else one.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            values.append(pa.nulls(1, field.type))
            message = f"output {field.name!r} is {_shown(one)} ({array.type}), which does not cast safely to the pinned {field.type}"
            errors[at] = RowError("invalid_output", "WrongType", message, attempts=1)
    return pa.concat_arrays(values) if values else pa.nulls(0, field.type), errors


def _shown(one: pa.Array) -> str:
    text = repr(one[0].as_py())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _widened(integers: pa.Array, decimal: pa.DataType) -> pa.Array:
    """As decimals that hold any integer: Arrow casts integers to no narrower ones, but decimals where the values fit."""
    digits, most = 20 + max(decimal.scale, 0), 76
    return integers.cast(pa.decimal256(digits, max(decimal.scale, 0))) if digits <= most else integers


def _not_finite(array: pa.Array, name: str) -> dict[int, RowError]:
    """Rows that hold a NaN or an infinite value; a null is allowed."""
    bad = _unsound(array)
    if bad is None or not bad.any():
        return {}
    message = f"output {name!r} is NaN or infinite"
    return {int(at): RowError("invalid_output", "NotFinite", message, attempts=1) for at in np.flatnonzero(bad)}


def _unsound(array: pa.Array) -> NDArray[np.bool_] | None:
    """Which rows hold a NaN or an infinite value at any depth; None where no row does."""
    kind = array.type
    if pa.types.is_floating(kind):
        finite = _finite(array)
        return None if finite.all() else ~finite
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _unsound(pc.list_flatten(array))
        if inner is None:
            return None
        bad = np.zeros(len(array), np.bool_)
        bad[pc.list_parent_indices(array).to_numpy()[inner]] = True
        return bad
    if pa.types.is_struct(kind):
        fields = [b for f in array.flatten() if (b := _unsound(f)) is not None]
        return np.logical_or.reduce(fields) if fields else None
    return None


def _finite(values: pa.Array) -> NDArray[np.bool_]:
    if values.null_count:
        values = values.fill_null(0)
    finite: NDArray[np.bool_] = np.isfinite(values.to_numpy(zero_copy_only=False))
    return finite
