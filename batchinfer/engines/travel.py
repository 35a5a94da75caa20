"""Batches and outputs on their way between processes: as bytes, and large values beside them, without what they are views of.

A tensor or an Arrow table that is cut from a window would take the whole window along, as pickle knows them.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class Packed:
    """A value that is ready to travel."""

    head: bytes
    buffers: tuple[NDArray[np.uint8], ...]
    """The bytes of arrays."""


def pack(value: Any) -> Packed:
    """A value for another process of the same code. Raises what pickle raises for a value that can't travel."""
    buffers: list[pickle.PickleBuffer] = []
    head = io.BytesIO()
    _Packer(head, protocol=5, buffer_callback=buffers.append).dump(value)
    return Packed(head.getvalue(), tuple(np.frombuffer(b.raw(), np.uint8) for b in buffers))


def unpack(packed: Packed) -> Any:
    """The value; its arrays and tensors are its own, and can be written to."""
    return pickle.loads(packed.head, buffers=[b.copy() for b in packed.buffers])  # noqa: S301 - from a process of this run


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return _tensor(value)
        if isinstance(value, pa.Table):
            return _read, (_written(value),)
        if isinstance(value, pa.ChunkedArray):
            return _columns_read, (_written(pa.table({"": value})),)
        if isinstance(value, pa.Array):
            return _column_read, (_written(pa.table({"": value})),)
        return NotImplemented


def _tensor(tensor: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import torch

    host = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if host.dtype == torch.bfloat16:  # which numpy lacks
        return _of_array, (host.view(torch.int16).numpy(), "bfloat16")
    try:
        return _of_array, (host.numpy(), None)
    except (
        TypeError,
        RuntimeError,
    ):  # a kind that numpy lacks: it travels in torch's own way, without what it is cut from
        copied: tuple[Callable[..., Any], tuple[Any, ...]] = host.clone().__reduce_ex__(5)
        return copied


def _of_array(array: NDArray[Any], kind: str | None) -> Any:
    import torch

    tensor = torch.from_numpy(array)
    return tensor if kind is None else tensor.view(getattr(torch, kind))


def _written(table: pa.Table) -> NDArray[np.uint8]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return np.frombuffer(sink.getvalue(), np.uint8)


def _read(stream: NDArray[np.uint8]) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(stream)).read_all()


def _columns_read(stream: NDArray[np.uint8]) -> pa.ChunkedArray:
    return _read(stream).column(0)


def _column_read(stream: NDArray[np.uint8]) -> pa.Array:
    return _columns_read(stream).combine_chunks()
