"""The smallest Arrow type that holds the values of two types exactly, if there is one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as pt

_SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
_UNSIGNED = {8: pa.uint8(), 16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}
_FLOATS = ((16, 11, pa.float16()), (32, 24, pa.float32()), (64, 53, pa.float64()))
_LARGE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


def widen(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that both cast to without any loss; None where there is none. Names inside nested types are `a`'s."""
    if a.equals(b):
        return a
    if pt.is_null(a) or pt.is_null(b):
        return b if pt.is_null(a) else a
    if isinstance(a, pa.BaseExtensionType) or isinstance(b, pa.BaseExtensionType):
        return None
    if pt.is_dictionary(a) or pt.is_dictionary(b):
        return widen(_plain(a), _plain(b))
    if (pt.is_integer(a) or pt.is_floating(a)) and (pt.is_integer(b) or pt.is_floating(b)):
        return _number(a, b)
    if pt.is_decimal(a) and pt.is_decimal(b):
        return _decimal(a, b)
    if _LARGE.get(a) == b or _LARGE.get(b) == a:
        return _LARGE.get(a) or _LARGE.get(b)
    return _nested(a, b)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pt.is_dictionary(kind) else kind


def _number(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pt.is_floating(a) or pt.is_floating(b):
        digits = max(_digits(a), _digits(b))
        bits = max(k.bit_width for k in (a, b) if pt.is_floating(k))
        return next((f for width, mantissa, f in _FLOATS if width >= bits and mantissa >= digits), None)
    if pt.is_signed_integer(a) == pt.is_signed_integer(b):
        return max(a, b, key=lambda k: k.bit_width)
    signed, unsigned = (a, b) if pt.is_signed_integer(a) else (b, a)
    return _SIGNED.get(max(signed.bit_width, 2 * unsigned.bit_width))


def _digits(kind: pa.DataType) -> int:
    """Binary digits that hold every value's magnitude exactly."""
    if pt.is_floating(kind):
        return next((mantissa for width, mantissa, _ in _FLOATS if width == kind.bit_width), 53)
    return int(kind.bit_width) - int(pt.is_signed_integer(kind))


def _decimal(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    scale = max(a.scale, b.scale)
    precision = max(a.precision - a.scale, b.precision - b.scale) + scale
    if precision <= 38 and not (pt.is_decimal256(a) or pt.is_decimal256(b)):
        return pa.decimal128(precision, scale)
    return pa.decimal256(precision, scale) if precision <= 76 else None


def _nested(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    lists = (pa.ListType, pa.LargeListType)
    if isinstance(a, lists) and isinstance(b, lists):
        item = _field(a.value_field, b.value_field)
        large = isinstance(a, pa.LargeListType) or isinstance(b, pa.LargeListType)
        return None if item is None else pa.large_list(item) if large else pa.list_(item)
    if isinstance(a, pa.FixedSizeListType) and isinstance(b, pa.FixedSizeListType) and a.list_size == b.list_size:
        item = _field(a.value_field, b.value_field)
        return None if item is None else pa.list_(item, a.list_size)
    if pt.is_struct(a) and pt.is_struct(b):
        return _struct(a, b)
    if pt.is_map(a) and pt.is_map(b) and a.keys_sorted == b.keys_sorted:
        key, item = widen(a.key_type, b.key_type), _field(a.item_field, b.item_field)
        return (
            None
            if key is None or item is None
            else pa.map_(pa.field(a.key_field.name, key, nullable=False), item, a.keys_sorted)
        )
    return None


def _struct(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    names = [f.name for f in a] + [f.name for f in b if a.get_field_index(f.name) < 0]
    if len(set(names)) != len(names) or len({f.name for f in b}) != b.num_fields:
        return None
    fields = []
    for name in names:
        i, j = a.get_field_index(name), b.get_field_index(name)
        both = (
            _field(a.field(i), b.field(j))
            if i >= 0 and j >= 0
            else (a.field(i) if i >= 0 else b.field(j)).with_nullable(True)
        )
        if both is None:
            return None
        fields.append(both)
    return pa.struct(fields)


def _field(a: pa.Field, b: pa.Field) -> pa.Field | None:
    kind = widen(a.type, b.type)
    return None if kind is None else pa.field(a.name, kind, nullable=a.nullable or b.nullable)
