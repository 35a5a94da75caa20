"""Agreement of columns of every kind."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.report.agreement import ColumnAgreement, agreement, cosines
from batchinfer.report.columns import profiled


def agreed(first: object, second: object, tolerance: float = 0.0) -> tuple[ColumnAgreement, list[float]]:
    one, two = pa.array(first), pa.array(second)
    profiles = [next(profiled("y", a)) for a in (one, two)]
    labels = {label for p in profiles for label in p.labels or ()}
    adding = agreement("y", profiles[0], (one.type, two.type), labels, tolerance)
    difference = adding.add(one, two)
    return adding.result(), difference.tolist()


def test_nulls_agree_with_nulls_and_nan_with_nan() -> None:
    nan = float("nan")
    made, difference = agreed([None, None, 1.0, nan, nan, 1.0], [None, 1.0, None, nan, 1.0, 1.0])
    assert (made.rows, made.agreeing, difference) == (6, 3, [0, 1, 1, 0, 1, 0])


def test_infinite_numbers_agree_with_themselves() -> None:
    inf = float("inf")
    made, difference = agreed([inf, -inf, inf, 2.0], [inf, inf, 1.0, 2.0])
    assert (made.agreeing, difference) == (2, [0, 1, 1, 0])


def test_whole_numbers_of_few_values_are_labels() -> None:
    made, difference = agreed([1, 2, 3] * 10, [1, 2, 2] * 10, tolerance=1.0)
    assert (made.kind, made.agreeing, made.confusion) == ("label", 20, (("3", "2", 10),))
    assert difference == [0, 0, 1] * 10
    assert made.figures["mean_absolute_difference"] == pytest.approx(1 / 3)


def test_a_whole_number_agrees_with_the_same_one_of_another_type() -> None:
    made, _ = agreed(np.arange(9, dtype=np.int32), np.arange(9, dtype=np.float64))
    assert made.agreeing == 9


def test_truth_values_labels_and_texts_agree_where_they_are_equal() -> None:
    assert agreed([True, False] * 5, [True, True] * 5)[0].confusion == (("false", "true", 5),)
    texts, _ = agreed([f"one {n}" for n in range(9)], [f"one {n % 8}" for n in range(9)])
    assert (texts.kind, texts.agreeing, texts.confusion) == ("text", 8, ())


def test_rare_values_are_not_named() -> None:
    made, _ = agreed(["a"] * 9 + ["Ada Lovelace"], ["a"] * 8 + ["b", "Alan Turing"])
    assert made.confusion == (("(other)", "(other)", 1), ("a", "(other)", 1))


def test_kappa_is_that_of_its_definition() -> None:
    made, _ = agreed(["y"] * 25 + ["n"] * 25, ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15)
    assert made.figures["kappa"] == pytest.approx(0.4)


def test_vectors_agree_by_their_cosine() -> None:
    made, difference = agreed([[1.0, 0.0]] * 4, [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]], tolerance=0.01)
    assert made.agreeing == 2
    assert difference == [0, pytest.approx(0.00249, abs=1e-5), 0.5, 1]
    assert made.figures == {"mean_cosine": pytest.approx(0.2488, abs=1e-4), "min_cosine": -1}


def test_vectors_of_any_length_have_a_cosine() -> None:
    nan = float("nan")
    one = pa.array([[], [1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [nan, 1.0], [nan, 1.0]], pa.list_(pa.float32()))
    two = pa.array([[], [2.0], [0.0, 0.0], [1.0, 0.0], [1.0], [nan, 1.0], [2.0, 1.0]], pa.list_(pa.float32()))
    assert cosines(one, two).tolist() == [1, 1, 1, 0, 0, 1, 0]


@given(st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=1, max_size=20), st.integers(0, 99))
def test_cosines_are_those_of_one_vector_at_a_time(vectors: list[list[float]], seed: int) -> None:
    others = np.random.default_rng(seed).normal(size=(len(vectors), 3))
    found = cosines(pa.array(vectors, pa.list_(pa.float64(), 3)), pa.array(others.tolist()))
    for a, b, cosine in zip(np.array(vectors), others, found, strict=True):
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        if norms > 1e-100:
            assert cosine == pytest.approx(a @ b / norms, abs=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "agreeing"),
    [
        ([["a"], ["b", "c"]], [["a"], ["b"]], 1),
        ([b"1", b"2"], [b"1", b"3"], 1),
        ([{"a": [1]}, {"a": [2]}], [{"a": [1]}, {"a": [3]}], 1),
        ([dt.date(2026, 1, 1), dt.date(2026, 1, 2)], [dt.date(2026, 1, 1), None], 1),
        ([dt.time(1)] * 2, [dt.time(1), dt.time(2)], 1),
        ([1, 2], ["1", "x"], 0),
    ],
)
def test_values_of_any_other_type_agree_where_they_are_equal(first: object, second: object, agreeing: int) -> None:
    assert agreed(first, second)[0].agreeing == agreeing
