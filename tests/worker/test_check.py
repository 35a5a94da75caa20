"""Which outputs of a model are valid, and what they become."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.errors import ModelError
from batchinfer.job.steps import OnInvalidOutput, Step
from batchinfer.worker.check import check

NAN, INF = math.nan, math.inf
F32 = pa.float32()


def step(*outputs: str) -> Step:
    names = outputs or ("y",)
    return Step(engine="python", uri="m:C", inputs={"x": "x"}, outputs={n: f"{n}_column" for n in names})  # type: ignore[arg-type]


def checked(
    values: Any, kind: pa.DataType | None = None, policy: OnInvalidOutput = "dead"
) -> tuple[pa.Array, dict[int, str]]:
    """The column and the dead rows' error types, of one output that is pinned to `kind`."""
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, kind)
    schema = pa.schema([("y_column", array.type if kind is None else kind)])
    (column,), dead = check({"y": array}, len(array), step(), schema, policy)
    assert column.type == schema.types[0]
    assert len(column) == len(array)
    return column, {at: error.error_type for at, error in dead.items()}


SOUND: list[tuple[list[Any], pa.DataType]] = [
    ([1.0, None, -2.5], pa.float64()),
    ([1.0, None], pa.float32()),
    ([1, None, 3], pa.int64()),
    (["a", None, ""], pa.string()),
    ([True, None], pa.bool_()),
    ([b"x", None], pa.binary()),
    ([[1.0], None, [], [2.0, None]], pa.list_(F32)),
    ([[1.0, 2.0], None, [None, 3.0]], pa.list_(F32, 2)),
    ([[[1.0], []], None, [None]], pa.list_(pa.list_(F32))),
    (
        [{"label": "a", "score": 0.5}, None, {"label": None, "score": None}],
        pa.struct([("label", "string"), ("score", F32)]),
    ),
    ([None, None], pa.null()),
    ([[("a", 1.0)], None], pa.map_(pa.string(), F32)),
]


@pytest.mark.parametrize(("values", "kind"), SOUND, ids=[str(k) for _, k in SOUND])
def test_sound_values_and_nulls_of_every_kind_pass_as_they_are(values: list[Any], kind: pa.DataType) -> None:
    column, dead = checked(values, kind)
    assert column.equals(pa.array(values, kind))
    assert dead == {}


@pytest.mark.parametrize(
    ("values", "kind", "dead"),
    [
        ([1.0, NAN, None, INF, -INF, 0.0], pa.float64(), {1, 3, 4}),
        ([1.0, NAN, None, INF], F32, {1, 3}),
        ([[1.0], [], None, [2.0, NAN], [INF], [3.0]], pa.list_(F32), {3, 4}),
        ([[1.0], [], None, [2.0, NAN]], pa.large_list(pa.float64()), {3}),
        ([None, [1.0, 2.0], [NAN, NAN], None, [None, -INF], [0.0, 0.0]], pa.list_(F32, 2), {2, 4}),
        ([[[1.0], [NAN]], None, [None, []], [[2.0]], [[], [INF]]], pa.list_(pa.list_(F32)), {0, 4}),
        ([None, [[1.0, 2.0]], [[1.0, NAN]]], pa.list_(pa.list_(F32, 2)), {2}),
        ([{"s": NAN}, None, {"s": 1.0}, {"s": None}, {"s": INF}], pa.struct([("s", F32)]), {0, 4}),
        ([[{"s": 1.0}], [{"s": 1.0}, {"s": NAN}], []], pa.list_(pa.struct([("s", F32)])), {1}),
    ],
)  # fmt: skip
def test_nan_and_infinity_at_any_depth_are_dead(values: list[Any], kind: pa.DataType, dead: set[int]) -> None:
    array = pa.array(values, kind)
    assert checked(array)[1] == dict.fromkeys(dead, "NotFinite")
    sliced = pa.concat_arrays([array, array]).slice(1, len(array))
    assert set(checked(sliced)[1]) == {(at - 1) % len(array) for at in dead}
    assert checked(array, policy="keep") == (array, {})
    with pytest.raises(ModelError, match=rf"row {min(dead)} of a batch of {len(array)}: output 'y_column' is NaN"):
        checked(array, policy="fail")


def test_half_precision_is_checked_too() -> None:
    array = pa.concat_arrays([pa.array(np.array([1, np.nan, np.inf], np.float16)), pa.nulls(1, pa.float16())])
    assert set(checked(array)[1]) == {1, 2}


def test_doubles_become_the_pinned_floats_and_what_overflows_is_infinite() -> None:
    column, dead = checked(pa.array([0.1, None, 1e300]), F32)
    assert column.to_pylist()[:2] == [pytest.approx(0.1), None]
    assert dead == {2: "NotFinite"}


def test_an_embedding_of_doubles_becomes_the_pinned_floats() -> None:
    array = pa.array([[0.5, 1.5], None, [NAN, 0.0]], pa.list_(pa.float64(), 2))
    column, dead = checked(array, pa.list_(F32, 2))
    assert column.to_pylist()[:2] == [[0.5, 1.5], None]
    assert dead == {2: "NotFinite"}


@pytest.mark.parametrize(
    ("values", "kind", "good", "dead"),
    [
        (["7", "seven", None, "8"], pa.int64(), [7, None, None, 8], {1}),
        ([1, 2**40, None, -3], pa.int32(), [1, None, None, -3], {1}),
        ([1.0, 1.5, None, NAN], pa.int64(), [1, None, None, None], {1, 3}),
        ([1, 2**60 + 1], pa.float64(), [1.0, None], {1}),
        ([[1.0, 2.0], [3.0], None, [4.0, 5.0]], pa.list_(F32, 2), [[1.0, 2.0], None, None, [4.0, 5.0]], {1}),
        ([None, 5], pa.null(), [None, None], {1}),
        ([None, {"a": 1}], pa.string(), [None, None], {1}),
        ([[1], None], pa.int64(), [None, None], {0}),
    ],
)
def test_a_value_that_does_not_cast_safely_is_dead_alone(
    values: list[Any], kind: pa.DataType, good: list[Any], dead: set[int]
) -> None:
    for policy in ("dead", "keep"):
        column, found = checked(pa.array(values), kind, policy)  # type: ignore[arg-type]
        assert column.to_pylist() == good
        assert found == dict.fromkeys(dead, "WrongType")
    with pytest.raises(ModelError, match="does not cast safely to the pinned") as caught:
        checked(pa.array(values), kind, "fail")
    assert repr(pa.array(values)[min(dead)].as_py()) in str(caught.value)


def test_a_fixed_size_list_of_another_size_is_dead() -> None:
    column, dead = checked(pa.array([[1.0] * 3, None], pa.list_(F32, 3)), pa.list_(F32, 2))
    assert column.to_pylist() == [None, None]
    assert dead == {0: "WrongType"}


def test_an_output_in_several_chunks_is_one_column() -> None:
    column, dead = checked(pa.chunked_array([[1.0], [NAN, 2.0]]), F32)
    assert isinstance(column, pa.Array)
    assert set(dead) == {1}


def test_no_rows_are_no_problem() -> None:
    assert checked(pa.array([], pa.struct([("a", F32)])), pa.int64())[1] == {}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_values_is_a_bug_of_the_model(count: int) -> None:
    with pytest.raises(ModelError, match=rf"output 'y' has {count} values for 2 rows"):
        check({"y": pa.array([1.0] * count)}, 2, step(), pa.schema([("y_column", pa.float64())]), "dead")


def test_a_missing_output_is_named_with_those_that_are_there() -> None:
    schema = pa.schema([("a_column", F32), ("b_column", F32)])
    with pytest.raises(ModelError, match=r"the model gave no output 'b', only 'a', 'c': correct model.outputs"):
        check({"a": pa.array([1.0]), "c": pa.array([1.0])}, 1, step("a", "b"), schema, "keep")
    with pytest.raises(ModelError, match="only none"):
        check({}, 1, step("a", "b"), schema, "dead")


def test_columns_come_in_the_steps_order_and_a_row_dies_of_any_of_them() -> None:
    schema = pa.schema([("a_column", F32), ("b_column", pa.int64())])
    outputs = {"b": pa.array(["1", "x", "3"]), "a": pa.array([NAN, 1.0, 2.0], F32), "unused": pa.array([1])}
    (a, b), dead = check(outputs, 3, step("a", "b"), schema, "dead")
    assert (a.type, b.to_pylist()) == (F32, [1, None, 3])
    assert {at: e.error_type for at, e in dead.items()} == {0: "NotFinite", 1: "WrongType"}
    assert {e.error_class for e in dead.values()} == {"invalid_output"}


def test_integers_that_fit_become_decimals_and_only_the_others_are_dead() -> None:
    values = pa.array([5, -7, None, 10**9], pa.int64())
    column, dead = checked(values, pa.decimal128(10, 2))
    assert [None if v is None else str(v) for v in column.to_pylist()] == ["5.00", "-7.00", None, None]
    assert dead == {3: "WrongType"}
