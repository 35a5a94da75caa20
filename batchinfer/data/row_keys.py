"""A digest of each row's values, by which rows of the same content are known again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KEY_BYTES = 16
"""Of a digest: two rows of a hundred billion have the same by chance with a probability of 10^-17."""
_NULL, _VALUE = b"\0", b"\1"
_SAME_TEXT = {"large_string": "string", "string_view": "string", "large_binary": "binary", "binary_view": "binary"}


def row_keys(columns: Sequence[pa.Array | pa.ChunkedArray]) -> list[bytes]:
    """One digest a row: BLAKE2b over the types of the columns and their values, in order.

    Rows have the same exactly where all values are equal to the bit and of the same type: 1, 1.0, "1", "", null, NaN, 0.0 and -0.0 are all
    different. How a value is stored doesn't count: in a dictionary, or as `string` or `large_string`.

    Args:
        columns: of the same length, at least one.

    """
    arrays = [_plain(column) for column in columns]
    kinds = "\0".join(_SAME_TEXT.get(str(array.type), str(array.type)) for array in arrays)
    key = blake2b(kinds.encode(), digest_size=64).digest()
    pieces = [_encoded(array) for array in arrays]
    whole = pieces[0] if len(pieces) == 1 else [b"".join(row) for row in zip(*pieces, strict=True)]
    return [blake2b(row, digest_size=KEY_BYTES, key=key).digest() for row in whole]


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.MapArray):
        return array.cast(pa.list_(pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])))
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _encoded(array: pa.Array) -> list[bytes]:
    """The bytes of each value, null or not, such that no two sequences of values run together to the same."""
    array, kind = _plain(array), array.type
    if pa.types.is_null(kind):
        return [_NULL] * len(array)
    if pa.types.is_struct(kind):
        fields = [_encoded(field) for field in array.flatten()]
        rows = [b"".join(row) for row in zip(*fields, strict=True)] if fields else [b""] * len(array)
        return [_VALUE + row for row in rows] if not array.null_count else _marked(array, rows)
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _marked(array, _lists(array))
    if (text := _as_binary(array)) is not None:
        return [_NULL if v is None else _VALUE + len(v).to_bytes(8, "little") + v for v in text.to_pylist()]
    width, raw = _fixed(array)
    rows = [raw[at : at + width] for at in range(0, width * len(array), width)]
    return [_VALUE + row for row in rows] if not array.null_count else _marked(array, rows)


def _marked(array: pa.Array, rows: Sequence[bytes]) -> list[bytes]:
    return [_VALUE + row if valid else _NULL for valid, row in zip(array.is_valid().to_pylist(), rows, strict=True)]


def _lists(array: pa.Array) -> list[bytes]:
    """Of each list its length and values; of a null an empty one."""
    counts = pc.fill_null(pc.list_value_length(array), 0).to_pylist()
    values = _plain(array.flatten())
    ends = list(itertools.accumulate(counts))
    kind = values.type
    if (pa.types.is_primitive(kind) or pa.types.is_boolean(kind)) and not values.null_count:
        width, raw = _fixed(values)
        within = [raw[(end - count) * width : end * width] for count, end in zip(counts, ends, strict=True)]
    else:
        each = _encoded(values)
        within = [b"".join(each[end - count : end]) for count, end in zip(counts, ends, strict=True)]
    return [count.to_bytes(8, "little") + row for count, row in zip(counts, within, strict=True)]


def _as_binary(array: pa.Array) -> pa.Array | None:
    """Texts and bytes as bytes; None for other types."""
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return array.cast(pa.large_binary())
    if pa.types.is_string_view(kind):
        return array.cast(pa.string()).cast(pa.binary())
    return (
        array if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) else None
    )


def _fixed(array: pa.Array) -> tuple[int, bytes]:
    """Bytes of a value, and those of all; of nulls they are whatever stands there."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    width = array.type.bit_width // 8
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return width, b"\0" * (width * len(array))
    start = array.offset * width
    return width, np.frombuffer(buffer, np.uint8)[start : start + width * len(array)].tobytes()
