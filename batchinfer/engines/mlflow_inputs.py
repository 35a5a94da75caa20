"""From the job's columns to what an MLflow model's signature asks for: which columns there are to be, of which types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.engines.mlflow_folder import Field, Signature
from batchinfer.engines.options import nearest
from batchinfer.job.steps import Step

_TYPES = {
    "boolean": pa.bool_(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "datetime": pa.timestamp("ns"),
}
"""Arrow's types of MLflow's; of nested ones MLflow checks the values itself."""


def wrong_names(step: Step, signature: Signature) -> list[str]:
    """What is wrong with the names of a step's inputs, one message each."""
    inputs = signature.inputs
    if inputs is None:
        return []
    if not signature.is_named:
        if len(inputs) == len(step.inputs):
            return []
        return [f"{step.name}.inputs: {step.uri} takes {len(inputs)} without names, not {len(step.inputs)}"]
    known = [str(each.name) for each in inputs]
    wrong = [
        f"{step.name}.inputs.{name}: is none of the model's inputs; {nearest(name, known)}"
        for name in step.inputs
        if name not in known
    ]
    missing = [str(each.name) for each in inputs if each.required and each.name not in step.inputs]
    wrong += [
        f"{step.name}.inputs.{name}: is missing: the model's signature asks for it ({field_of(signature, name)})"
        for name in missing
    ]
    wrong += [
        f"{step.name}.inputs.{name}: is one column by the model's signature, not a list"
        for name, columns in step.inputs.items()
        if name in known and not isinstance(columns, str) and not field_of(signature, name).is_tensor
    ]
    return wrong


def field_of(signature: Signature, name: str) -> Field:
    """The input of a name that the step has, or of its place where inputs have no names."""
    inputs = signature.inputs or ()
    return next((each for each in inputs if each.name == name), inputs[0])


def fields_of(step: Step, signature: Signature) -> Mapping[str, Field | None]:
    """By the step's names of its inputs, in the signature's order; None where it says nothing of them."""
    inputs = signature.inputs
    if inputs is None:
        return dict.fromkeys(step.inputs)
    if not signature.is_named:
        return dict(zip(step.inputs, inputs, strict=True))
    return {str(each.name): each for each in inputs if each.name in step.inputs}


def misfit(step: Step, name: str, asked: Field | None, kinds: Mapping[str, pa.DataType]) -> str | None:
    """Why columns, of these types by their names, can't be given as an input; None where they can."""
    if asked is None:
        return None
    where = f"{step.name}.inputs.{name}"
    for column, kind in kinds.items():
        if not (_tensor_takes(asked, kind) if asked.is_tensor else _takes(asked.kind, kind)):
            return (
                f"{where}: the model's signature asks for {asked}, and the column {column} is {kind}, which may lose values: "
                "cast it in a step of rules"
            )
    if asked.is_tensor:
        width = sum(kind.list_size if pa.types.is_fixed_size_list(kind) else 1 for kind in kinds.values())
        wanted = int(np.prod(asked.shape[1:])) if -1 not in asked.shape[1:] else None
        if wanted not in (None, width):
            return f"{where}: the model's signature asks for {wanted} values a row ({asked}), and {width} are given"
    return None


def _takes(wanted: str, kind: pa.DataType) -> bool:
    """Whether a column can be given as MLflow's type without a loss, as MLflow has it."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind) or wanted not in _TYPES:
        return True
    if wanted == "double" and (pa.types.is_decimal(kind) or (pa.types.is_integer(kind) and kind.bit_width <= 32)):
        return True
    if wanted in ("float", "double"):
        return bool(pa.types.is_floating(kind)) and kind.bit_width <= _TYPES[wanted].bit_width
    if wanted in ("integer", "long"):
        width = _TYPES[wanted].bit_width
        signed = pa.types.is_signed_integer(kind) and kind.bit_width <= width
        return bool(signed or (pa.types.is_unsigned_integer(kind) and kind.bit_width < width))
    if wanted == "datetime":
        return bool(pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None))
    if wanted == "string":
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
    if wanted == "binary":
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))
    return bool(pa.types.is_boolean(kind))


def _tensor_takes(asked: Field, kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
    if pa.types.is_null(inner):
        return True
    try:
        given = inner.to_pandas_dtype()
        return bool(np.can_cast(np.dtype(given), np.dtype(asked.dtype), "safe"))
    except (NotImplementedError, TypeError):
        return False


def as_asked(column: pa.Array, asked: Field | None) -> pa.Array:
    """The column in the type that the signature asks for. Raises ValueError where a value doesn't fit it."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    wanted = None if asked is None or asked.is_tensor else _TYPES.get(asked.kind)
    return column if wanted is None or column.type == wanted else column.cast(wanted)


def tensor(columns: Mapping[str, pa.Array], asked: Field) -> Any:
    """The columns side by side as an array of the type and shape that the signature asks for, rows first."""
    rows = len(next(iter(columns.values())))
    flat = [
        (each.flatten() if pa.types.is_fixed_size_list(each.type) else each)
        .to_numpy(zero_copy_only=False)
        .reshape(rows, -1)
        for each in columns.values()
    ]
    wide = np.concatenate(flat, axis=1).astype(asked.dtype)
    inner = asked.shape[1:]
    return wide.reshape(rows, *inner) if inner.count(-1) <= 1 else wide
