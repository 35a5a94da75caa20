"""What an ONNX file holds, read from its bytes at planning time: no library of ONNX is imported, and no weight is read."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from batchinfer.errors import ModelError

_NARROW = frozenset({10, 16, 17, 18, 19, 20, 21, 22, 23, 24})
"""TensorProto.DataType of numbers narrower than float32 that stand for real ones: float16, bfloat16, float8, (u)int4, float4."""
_QUANTIZED = ("Quantize", "Dequantize", "QLinear", "QGemm", "QAttention", "DynamicQuantize", "MatMulNBits")
"""How operators begin that compute in, or from, fewer bits; others end in `Integer`."""
# Field numbers of onnx.proto: which fields of a message are messages of which kind.
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_OPERATOR, _DATA_TYPE = 4, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Buffer = mmap.mmap | bytes


@dataclass
class OnnxFile:
    """What counts of an ONNX file."""

    types: set[int] = field(default_factory=set)
    """TensorProto.DataType of its constants."""
    operators: set[str] = field(default_factory=set)
    external: set[str] = field(default_factory=set)
    """Files beside it that hold weights, relative to its folder."""

    @property
    def quantized(self) -> bool:
        """Whether an operator computes in, or from, fewer bits than the numbers that it stands for have."""
        return any(name.startswith(_QUANTIZED) or name.endswith("Integer") for name in self.operators)

    @property
    def is_fp32(self) -> bool:
        """Whether nothing in it is narrower than float32."""
        return not (self.quantized or self.types & _NARROW)


def read_onnx(path: Path, where: str) -> tuple[bool, frozenset[str]]:
    """Whether an ONNX file is in fp32, and the names of the files beside it that hold its weights.

    Raises ModelError for what is none, and for weights outside its folder.
    """
    found = structure(path, where)
    return found.is_fp32, frozenset(found.external)


def structure(path: Path, where: str) -> OnnxFile:
    """What an ONNX file holds. Raises ModelError as `read_onnx` does."""
    found = OnnxFile()
    try:
        with path.open("rb") as file:
            # An empty file can't be mapped.
            size = path.stat().st_size
            data: Buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            _walk(data, 0, size, "model", found)
    except (ValueError, IndexError, OSError, RecursionError) as error:
        raise ModelError(f"{where}: {path} is no ONNX file: {error}") from error
    if not found.operators:
        raise ModelError(f"{where}: {path} is no ONNX file: it holds no operator")
    for name in sorted(found.external):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ModelError(f"{where}: {path} has weights in {name}, outside its folder: save it with them beside it")
        if not (path.parent / name).is_file():
            raise ModelError(f"{where}: {path} has weights in {path.parent / name}, which is missing: copy it there")
    return found


def _walk(data: Buffer, start: int, end: int, kind: str, found: OnnxFile) -> None:
    inside = _INSIDE[kind]
    location: dict[bytes, bytes] = {}
    for number, value, stop in _fields(data, start, end):
        if kind == "node" and number == _OPERATOR:
            found.operators.add(data[value:stop].decode())
        elif kind == "tensor" and number == _DATA_TYPE:
            found.types.add(value)
        elif inside.get(number) == "entry":
            entry = {n: data[first:last] for n, first, last in _fields(data, value, stop)}
            location[entry.get(1, b"")] = entry.get(2, b"")
        elif number in inside:
            _walk(data, value, stop, inside[number], found)
    if b"location" in location:
        found.external.add(location[b"location"].decode())


def _fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, value and 0 of each integer field of a protobuf message; number, start and stop of each field of bytes."""
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at, end)
            yield number, value, 0
        elif wire == _BYTES:
            size, at = _varint(data, at, end)
            if at + size > end:
                raise ValueError("it is cut off")
            yield number, at, at + size
            at += size
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("its bytes are no protobuf")


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise ValueError("its bytes are no protobuf")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
