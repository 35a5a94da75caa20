from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from batchinfer.engines.travel import Packed, pack, unpack


def size(packed: Packed) -> int:
    return len(packed.head) + sum(b.nbytes for b in packed.buffers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_tensor_travels_without_the_window_that_it_is_cut_from(dtype: torch.dtype) -> None:
    window = torch.arange(1_000_000).reshape(-1, 10).to(dtype)
    packed = pack({"x": window[5:8]})
    assert size(packed) < 2000
    there = unpack(packed)["x"]
    assert there.dtype == dtype
    assert torch.equal(there, window[5:8])
    there[:] = 0  # and it is its own
    assert window[5:8].any()


def test_arrow_travels_without_the_window_that_it_is_cut_from() -> None:
    window = pa.table({"x": pa.array(range(1_000_000)), "text": ["a text"] * 1_000_000})
    packed = pack([window.slice(7, 3), window["x"].slice(7, 3), window["text"].combine_chunks().slice(7, 3)])
    assert size(packed) < 10_000
    table, column, array = unpack(packed)
    assert table.equals(window.slice(7, 3))
    assert column.to_pylist() == [7, 8, 9]
    assert array.to_pylist() == ["a text"] * 3


def test_an_array_that_has_travelled_can_be_written_to() -> None:
    array = np.arange(12).reshape(3, 4)[:, ::2]
    array.flags.writeable = False
    there = unpack(pack(array))
    assert np.array_equal(there, array)
    there[0, 0] = 7
