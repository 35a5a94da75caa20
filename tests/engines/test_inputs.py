from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.engines.inputs import columns_of, has_null, matrix, take, to_numpy
from batchinfer.job.steps import Step

NUMBERS = {"b": pa.int8(), "i": pa.int64(), "f": pa.float32(), "d": pa.float64()}


@given(st.lists(st.sampled_from(sorted(NUMBERS)), min_size=1, max_size=5), st.integers(0, 6), st.integers(1, 3))
def test_a_matrix_has_the_columns_side_by_side_in_their_common_type(kinds: str, rows: int, chunks: int) -> None:
    values = [[(row * 7 + at) % 100 for row in range(rows)] for at in range(len(kinds))]
    columns = [pa.chunked_array([pa.array(v, NUMBERS[k])] * chunks) for v, k in zip(values, kinds, strict=True)]
    made = matrix(columns)
    expected = np.column_stack([column.to_numpy() for column in columns])
    assert made.dtype == expected.dtype
    np.testing.assert_array_equal(made, expected)


def test_numbers_and_fixed_size_lists_are_views_of_the_columns_memory() -> None:
    numbers = pa.array([1.0, 2.0, 3.0])
    lists = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32(), 2))
    assert to_numpy(numbers.slice(1)).ctypes.data == numbers.buffers()[1].address + 8
    assert to_numpy(lists.slice(1)).tolist() == [[3, 4], [5, 6]]
    assert to_numpy(lists.slice(1)).ctypes.data == lists.flatten().buffers()[1].address + 8
    assert to_numpy(pa.chunked_array([numbers])).ctypes.data == numbers.buffers()[1].address


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, None]), "value is null"),
        (pa.array([[1.0], None], pa.list_(pa.float32(), 1)), "value is null"),
        (pa.array([[1.0], [None]], pa.list_(pa.float32(), 1)), "value is null"),
        (pa.array(["a"]), "string is neither numeric"),
        (pa.array([[1.0]]), "list<item: double> is neither numeric"),
    ],
)
def test_what_numpy_cannot_hold_is_a_type_error(column: pa.Array, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        to_numpy(column)


def test_a_matrix_of_lists_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="single numbers, not of lists"):
        matrix([pa.array([[1.0]], pa.list_(pa.float32(), 1))])


def test_a_null_outside_of_a_slice_does_not_count() -> None:
    lists = pa.array([[None, 1.0], [2.0, 3.0]], pa.list_(pa.float32(), 2))
    assert has_null(lists)
    assert not has_null(lists.slice(1))


def test_rows_are_taken_by_slice_and_by_position() -> None:
    column = pa.array([0, 1, 2, 3])
    assert take(column, slice(1, 3)).to_pylist() == [1, 2]
    assert take(column, slice(2, 9)).to_pylist() == [2, 3]
    assert take(column, np.array([3, 0], np.intp)).to_pylist() == [3, 0]


def test_the_columns_of_a_step_are_named_once_in_order() -> None:
    inputs = {"x": ["b", "a"], "y": "a", "z": "c"}
    assert columns_of(
        Step.model_validate({"engine": "torch", "uri": "m:C", "inputs": inputs, "outputs": {"o": "o"}})
    ) == (
        "b",
        "a",
        "c",
    )
