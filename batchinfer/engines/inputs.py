"""From the job's columns to a model's inputs: which columns an input takes, and columns as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.protocol import Rows
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step

Column: TypeAlias = pa.Array | pa.ChunkedArray


def columns_of(step: Step) -> tuple[str, ...]:
    """The columns that the step's inputs need, each once, in the order in which the inputs name them."""
    named = ((columns,) if isinstance(columns, str) else columns for columns in step.inputs.values())
    return tuple(dict.fromkeys(column for columns in named for column in columns))


def contiguous(column: Column) -> pa.Array:
    """The column as one array; copies only where it has several chunks."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def take(column: pa.Array, rows: Rows) -> pa.Array:
    """These rows of an array: a view for a slice, a copy for positions."""
    if isinstance(rows, slice):
        start, stop, _ = rows.indices(len(column))
        return column.slice(start, max(stop - start, 0))
    return column.take(pa.array(rows))


def is_number(kind: pa.DataType) -> bool:
    """True for integers and floats: what numpy holds without a copy."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_numeric(kind: pa.DataType) -> bool:
    """True for numbers and for fixed-size lists of numbers: what `to_numpy` takes, apart from booleans."""
    return is_number(kind) or bool(pa.types.is_fixed_size_list(kind) and is_number(kind.value_type))


def is_encoded(kind: pa.DataType) -> bool:
    """Whether values of a type may be encoded images: bytes, paths, or structs of both, as Hugging Face's datasets have them."""
    if pa.types.is_dictionary(kind):
        return is_encoded(kind.value_type)
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        return set(fields) == {"bytes", "path"} and (is_binary(fields["bytes"]) and _is_string(fields["path"]))
    return is_binary(kind) or _is_string(kind)


def is_binary(kind: pa.DataType) -> bool:
    """True for bytes of any length, however Arrow keeps them."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def has_null(column: Column) -> bool:
    """True where a value is null, or a number inside a fixed-size list is."""
    if column.null_count:
        return True
    if not pa.types.is_fixed_size_list(column.type):
        return False
    return bool(contiguous(column).flatten().null_count)


def check_numeric(columns: Sequence[Column], name: str, where: str, engine: str, *, single: bool) -> None:
    """Check the columns of one input of numbers; `single`: it is one column, which may also hold fixed-size lists.

    Raises ModelError, beginning with `where`, for a type that `engine` doesn't take, and TypeError where a value is null.
    """
    for column in columns:
        fits = is_numeric(column.type) if single else is_number(column.type)
        if not (fits or pa.types.is_boolean(column.type) or pa.types.is_null(column.type)):
            wanted = "numbers, booleans or fixed-size lists of numbers" if single else "single numbers or booleans"
            hint = "; of images, say in options.images how they are read" if single and is_encoded(column.type) else ""
            raise ModelError(f"{where}: {engine} takes columns of {wanted}, not {column.type}{hint}")
        if has_null(column):
            raise TypeError(f"input {name} is null")


def to_numpy(column: Column) -> NDArray[Any]:
    """A column of n numbers as an array of shape (n,), of fixed-size lists of k numbers as shape (n, k).

    A read-only view of the column's memory where it is one chunk of numbers; booleans are unpacked into a copy. Raises
    TypeError where a value is null or the type is neither numeric nor boolean.
    """
    kind = column.type
    if not (is_numeric(kind) or pa.types.is_boolean(kind)):
        raise TypeError(f"{kind} is neither numeric nor a fixed-size list of numbers")
    if has_null(column):
        raise TypeError("value is null")
    array = contiguous(column)
    if pa.types.is_fixed_size_list(kind):
        # flatten() respects the array's offset, .values does not.
        flat: NDArray[Any] = array.flatten().to_numpy(zero_copy_only=True)
        return flat.reshape(len(array), kind.list_size)
    numbers: NDArray[Any] = array.to_numpy(zero_copy_only=not pa.types.is_boolean(kind))
    return numbers


def matrix(columns: Sequence[Column]) -> NDArray[Any]:
    """k numeric columns of n rows as one array of shape (n, k), of numpy's common type for them.

    The memory is that of a C-contiguous (k, n) array, returned transposed: each column is written in one pass, which is
    many times faster than assigning columns of an (n, k) array. Raises TypeError as `to_numpy` does, and for lists.
    """
    arrays = [to_numpy(column) for column in columns]
    if any(array.ndim != 1 for array in arrays):
        raise TypeError("a matrix is made of columns of single numbers, not of lists")
    across = np.empty((len(arrays), len(arrays[0])), dtype=np.result_type(*arrays))
    for row, array in zip(across, arrays, strict=True):
        np.copyto(row, array)
    return across.T
