"""Keys of rows: equal for equal content, however it is stored, and for nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.data.row_keys import row_keys

DIFFERENT: list[tuple[Any, pa.DataType]] = [
    (1, pa.int64()),
    (1, pa.int32()),
    (1.0, pa.float64()),
    (1.0, pa.float32()),
    ("1", pa.string()),
    (b"1", pa.binary()),
    (True, pa.bool_()),
    ("", pa.string()),
    (None, pa.string()),
    (None, pa.int64()),
    (None, pa.null()),
    (float("nan"), pa.float64()),
    (0.0, pa.float64()),
    (-0.0, pa.float64()),
    (0, pa.int64()),
    ([], pa.list_(pa.int64())),
    ([None], pa.list_(pa.int64())),
    ([1], pa.list_(pa.int64())),
    ([1, 1], pa.list_(pa.int64())),
    ([1, 1], pa.list_(pa.int64(), 2)),
    (None, pa.list_(pa.int64())),
    ({"a": 1}, pa.struct([("a", pa.int64())])),
    ({"a": None}, pa.struct([("a", pa.int64())])),
    (None, pa.struct([("a", pa.int64())])),
    ([("a", 1)], pa.map_(pa.string(), pa.int64())),
    (1, pa.timestamp("us")),
    (1, pa.timestamp("ms")),
    (1, pa.date32()),
]


def test_values_that_only_look_alike_have_different_keys() -> None:
    keys = [row_keys([pa.array([value], kind)])[0] for value, kind in DIFFERENT]
    assert len(set(keys)) == len(keys)


def test_texts_do_not_run_together() -> None:
    one, other = row_keys([pa.array(["ab", "a"]), pa.array(["c", "bc"])])
    assert one != other
    one, other = row_keys([pa.array([["a", "b"], ["ab"]])])
    assert one != other
    one, other = row_keys([pa.array([[[1], [2]], [[1, 2]]])])
    assert one != other


def test_how_values_are_stored_does_not_count() -> None:
    plain = pa.array(["a", None, "b", "a"])
    for other in (plain.dictionary_encode(), plain.cast(pa.large_string()), plain.cast(pa.string_view())):
        assert row_keys([other]) == row_keys([plain])
    assert row_keys([pa.chunked_array([plain[:1], plain[1:]])]) == row_keys([plain])
    assert row_keys([plain])[0] == row_keys([plain])[3]


def test_what_stands_below_a_null_does_not_count() -> None:
    below = pa.Array.from_buffers(
        pa.int64(), 2, [pa.py_buffer(b"\0"), pa.py_buffer(np.array([1, 2], np.int64).tobytes())]
    )
    assert below.null_count == 2
    assert len(set(row_keys([below]))) == 1


KINDS = [
    (st.integers(-3, 3), pa.int64()),
    (st.sampled_from([0.0, -0.0, 1.5]), pa.float64()),
    (st.sampled_from(["", "a", "ab"]), pa.string()),
    (st.booleans(), pa.bool_()),
    (st.lists(st.integers(0, 2) | st.none(), max_size=2), pa.list_(pa.int8())),
    (st.lists(st.integers(0, 2), min_size=2, max_size=2), pa.list_(pa.int8(), 2)),
    (st.lists(st.sampled_from(["", "a"]), max_size=2), pa.list_(pa.string())),
    (st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 1)), max_size=1), pa.map_(pa.string(), pa.int8())),
    (
        st.fixed_dictionaries({"a": st.integers(0, 1) | st.none(), "b": st.lists(st.booleans(), max_size=1)}),
        pa.struct([("a", pa.int8()), ("b", pa.list_(pa.bool_()))]),
    ),
]


@given(st.data())
def test_rows_of_any_types_have_equal_keys_exactly_where_they_are_equal(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    rows = data.draw(st.lists(st.tuples(*(values | st.none() for values, _ in kinds)), min_size=1, max_size=12))
    columns = [pa.array([row[n] for row in rows], kind) for n, (_, kind) in enumerate(kinds)]
    keys = row_keys(columns)
    rows = list(zip(*(column.to_pylist() for column in columns), strict=True))  # fields in the order of their type
    for one, one_key in zip(rows, keys, strict=True):
        for other, other_key in zip(rows, keys, strict=True):
            assert (repr(one) == repr(other)) == (one_key == other_key)
    start = data.draw(st.integers(0, len(rows)))
    assert row_keys([column[start:] for column in columns]) == keys[start:]


@pytest.mark.parametrize("kind", [pa.string(), pa.float32(), pa.list_(pa.float32(), 4), pa.null()])
def test_no_rows_have_no_keys(kind: pa.DataType) -> None:
    assert row_keys([pa.array([], kind)]) == []
