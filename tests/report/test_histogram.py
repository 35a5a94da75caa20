from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from batchinfer.report.histogram import MOST_BINS, Histogram, histogram, together

finite = arrays(np.float64, st.integers(0, 300), elements=st.floats(-(2.0**1022), 2.0**1022))


@given(finite)
def test_every_value_lies_in_one_of_few_bins(values: np.ndarray) -> None:
    made = histogram(values)
    assert sum(made.counts) == len(values)
    assert len(made.lefts) <= MOST_BINS
    for left, count in zip(made.lefts, made.counts, strict=True):
        with np.errstate(over="ignore"):
            assert ((values >= left) & (values < left + made.width)).sum() == count or left + made.width == left


@given(finite, finite)
def test_two_histograms_come_to_one_grid_as_if_both_had_been_made_on_it(first: np.ndarray, second: np.ndarray) -> None:
    one, two = histogram(first), histogram(second)
    counts = together(one, two)
    assert [c.sum() for c in counts] == [len(first), len(second)]
    width = max(one.width, two.width)
    assert histogram(first).coarsened(width) == one.coarsened(one.width).coarsened(width)


@given(finite)
def test_a_histogram_is_read_back_from_json(values: np.ndarray) -> None:
    made = histogram(values)
    assert Histogram.from_json(made.to_json()) == made


def test_a_few_values_far_off_leave_the_bulk_its_bins() -> None:
    bulk = np.random.default_rng(0).normal(size=10_000)
    made = histogram(np.concatenate((bulk, [1e6, -3e5, 1e9])))
    assert sum(c > 50 for c in made.counts) > 20


def test_small_differences_of_large_numbers_are_seen() -> None:
    rng = np.random.default_rng(0)
    one, two = together(histogram(rng.normal(300, 1, 5000)), histogram(rng.normal(303, 1, 5000)))
    assert abs(one - two).sum() / 10_000 > 0.8


def test_the_largest_numbers_there_are_have_a_bin() -> None:
    made = histogram(np.array([np.finfo(np.float64).max, -np.finfo(np.float64).max, 1.0]))
    assert sum(made.counts) == 3
    assert np.isfinite(made.lefts).all()


def test_near_constants_are_told_apart() -> None:
    one, two = together(histogram(np.full(9, 0.5)), histogram(np.full(7, 0.51)))
    assert (one * two).sum() == 0


@pytest.mark.parametrize(
    "damage", [{"width": 0.3}, {"lefts": [0.1]}, {"counts": [1, 2, 3]}, {"counts": [-1]}, {"width": float("nan")}]
)
def test_a_histogram_with_other_edges_is_refused(damage: dict[str, object]) -> None:
    value = {"width": 0.5, "lefts": [1.5], "counts": [2]}
    assert Histogram.from_json(value).counts == (2,)
    with pytest.raises(ValueError, match="not a histogram"):
        Histogram.from_json({**value, **damage})
