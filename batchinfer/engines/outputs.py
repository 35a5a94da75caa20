"""From what a model returns to Arrow arrays: one array per output, one value per row."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.errors import ModelError


@dataclass(frozen=True)
class Outputs:
    """What `infer` hands to `finish`: values by output name, not yet converted, and how many rows they are for."""

    rows: int
    values: Mapping[str, Any]


def fixed_size_lists(values: NDArray[Any]) -> pa.Array:
    """An array of shape (n, a, b, …) as n fixed-size lists, nested by axis; shape (n,) stays plain values.

    Shares memory with `values` where those are contiguous. Raises ModelError for an axis of size 0.
    """
    if 0 in values.shape[1:]:
        raise ModelError(f"an output of shape {values.shape} holds no values")
    array = pa.array(values.reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def single(value: Any) -> Any:
    """An array or tensor of shape (n, 1) as (n,): a column of numbers, not of lists of one."""
    return value[:, 0] if getattr(value, "ndim", 0) == 2 and value.shape[1] == 1 else value


def is_tensor(value: object) -> bool:
    """True for a torch tensor. Doesn't import torch: where nobody has, there is no tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def tensor_to_numpy(tensor: Any) -> NDArray[Any]:
    """A torch tensor as an array on the CPU, not copied where it is there; bfloat16, which numpy lacks, as float32."""
    import torch

    host = tensor.detach().cpu()
    if host.dtype == torch.bfloat16:
        host = host.float()
    array: NDArray[Any] = host.resolve_conj().resolve_neg().numpy()
    return array


def to_arrow(value: Any) -> pa.Array:
    """Values of one output as an Arrow array; numbers of shape (n, k) become fixed-size lists of k.

    Takes numpy arrays, torch tensors, Arrow arrays, polars series, and lists with None. Raises TypeError for anything
    else, and Arrow's errors for values that have no common type.
    """
    if is_tensor(value):
        value = tensor_to_numpy(value)
    if isinstance(value, np.ndarray):
        if value.ndim == 0:
            raise TypeError("a single number, not one per row")
        return pa.array(value.tolist()) if value.dtype == object else fixed_size_lists(value)
    if isinstance(value, pa.ChunkedArray):
        # combine_chunks() of one array over several chunks; of none, an empty array of the type.
        return value.combine_chunks()
    if isinstance(value, pa.Array):
        return value
    polars = sys.modules.get("polars")
    if polars is not None and isinstance(value, polars.Series):
        return to_arrow(value.rechunk().to_arrow())
    if isinstance(value, list | tuple):
        return pa.array(_plain(value))
    raise TypeError(f"{type(value).__name__} is not a numpy array, torch tensor, Arrow array, polars series or list")


def _plain(values: list[Any] | tuple[Any, ...]) -> list[Any]:
    """A list whose elements Arrow understands: tensors of single rows become arrays."""
    if not any(is_tensor(value) for value in values):
        return list(values)
    return [tensor_to_numpy(value)[()] if is_tensor(value) else value for value in values]


def finish(outputs: Outputs, names: Mapping[str, Any], step: str) -> dict[str, pa.Array]:
    """The outputs that the step names, as Arrow arrays of `outputs.rows` values.

    Raises ModelError where an output is missing, is no column, or has another number of values than rows, and ValueError
    where its values have no common Arrow type.
    """
    columns: dict[str, pa.Array] = {}
    for name in names:
        if name not in outputs.values:
            given = ", ".join(map(str, outputs.values)) or "none"
            raise ModelError(f"{step}.outputs.{name}: the model gave no output of this name; it gave: {given}")
        try:
            column = to_arrow(outputs.values[name])
        except pa.ArrowException as error:  # values without a common type: one row's fault, and isolating finds the row
            raise ValueError(f"output {name!r}: {error}") from error
        except (TypeError, ValueError) as error:
            raise ModelError(f"{step}.outputs.{name}: the model's values are no column: {error}") from error
        if len(column) != outputs.rows:
            raise ModelError(
                f"{step}.outputs.{name}: the model gave {len(column)} values for {outputs.rows} rows; "
                "it must give one value per row, in the rows' order"
            )
        columns[name] = column
    return columns
