"""Distances of distributions, and when they are too far."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.errors import RefusedError
from batchinfer.report.columns import profiled
from batchinfer.report.distance import Distance, distance
from batchinfer.report.drift import Drift, Thresholds, drift
from batchinfer.report.profile import Profile

RNG = np.random.default_rng(3)


def profile_of(**columns: object) -> Profile:
    table = pa.table(columns)
    found = [p for n in table.schema.names for p in profiled(n, table.column(n).combine_chunks())]
    return Profile(len(table), len(table), tuple(found))


def between(before: object, now: object) -> Distance:
    one, two = profile_of(x=before).columns[0], profile_of(x=now).columns[0]
    made = distance(one, two)
    assert made is not None
    return made


def test_of_labels_the_distances_are_those_of_the_definition() -> None:
    made = between(["a"] * 50 + ["b"] * 50, ["a"] * 80 + ["b"] * 20)
    assert made.total_variation == pytest.approx(0.3)
    assert made.hellinger == pytest.approx(math.sqrt(1 - math.sqrt(0.5 * 0.8) - math.sqrt(0.5 * 0.2)))


def test_two_samples_of_one_distribution_are_as_far_as_chance_has_it() -> None:
    for draw in (RNG.normal, RNG.exponential, lambda size: RNG.integers(0, 7, size)):
        far = [between(draw(size=2000), draw(size=3000)) for _ in range(5)]
        mean = np.mean([f.total_variation for f in far])
        assert mean == pytest.approx(np.mean([f.by_chance for f in far]), rel=0.35)


def test_distributions_without_a_common_value_are_at_distance_one() -> None:
    made = between(np.arange(100.0), np.arange(100.0) + 1000)
    assert (made.total_variation, made.hellinger) == (1, 1)


def test_a_shift_of_numbers_is_measured() -> None:
    made = between(RNG.normal(0, 1, 20_000), RNG.normal(1, 1, 20_000))
    assert made.total_variation == pytest.approx(0.383, abs=0.03)  # 2Φ(1/2) − 1
    assert made.hellinger == pytest.approx(math.sqrt(1 - math.exp(-1 / 8)), abs=0.03)


def test_nulls_and_nan_that_come_up_are_drift() -> None:
    assert between([1.0] * 100, [1.0] * 80 + [None] * 20).total_variation == pytest.approx(0.2)
    assert between([1.0] * 100, [1.0] * 70 + [float("nan")] * 30).total_variation == pytest.approx(0.3)
    assert between([1.0] * 100, pa.nulls(100, pa.float64())).total_variation == 1
    assert between(pa.nulls(50), pa.nulls(60)).total_variation == 0


def test_vectors_that_turn_are_drift_whatever_their_norm() -> None:
    def vectors(towards: float) -> pa.Array:
        made = RNG.normal(size=(4000, 32)) + towards
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return pa.FixedSizeListArray.from_arrays(made.astype(np.float32).ravel(), 32)

    same, turned = between(vectors(0), vectors(0)), between(vectors(0), vectors(0.5))
    assert same.total_variation < 0.08
    assert turned.total_variation > 3 * turned.by_chance
    assert between(vectors(0), pa.array([[1.0, 2.0]] * 9)).note == "2 components instead of 32"


def test_texts_are_compared_by_their_lengths_and_that_is_said() -> None:
    made = between([f"text {n}" for n in range(200)], [f"a much longer text {n}" for n in range(200)])
    assert made.total_variation == 1
    assert "lengths" in made.note


def test_a_column_of_another_type_is_at_distance_one_and_that_is_said() -> None:
    made = between([1.5] * 10 + [2.5] * 10, ["a", "b"] * 10)
    assert (made.total_variation, made.note) == (1, "label (string) instead of number (double)")


@given(st.lists(st.sampled_from("abcd"), min_size=2), st.lists(st.sampled_from("abcd"), min_size=2))
def test_distances_keep_their_inequalities(one: list[str], two: list[str]) -> None:
    there, back = between(one, two), between(two, one)
    assert there.total_variation == pytest.approx(back.total_variation)
    assert 0 <= there.total_variation <= 1
    if not there.note:  # Le Cam: H² ≤ TV ≤ √2 H
        assert there.hellinger**2 <= there.total_variation + 1e-9
        assert there.total_variation <= math.sqrt(2) * there.hellinger + 1e-9


def test_of_labels_the_shares_that_changed_most_come_first() -> None:
    before, now = profile_of(y=["a"] * 50 + ["b"] * 48 + ["c", "d"]), profile_of(y=["a"] * 70 + ["b"] * 28 + ["d"] * 2)
    (column,) = drift(now, before).columns
    found = [(s.label, round(s.change, 2)) for s in column.labels]
    assert found == [("a", 0.2), ("b", -0.2), ("(other)", -0.02), ("d", 0.02)]


def test_beyond_a_threshold_the_exit_code_is_three() -> None:
    before, now = profile_of(y=["a", "b"] * 50, z=[1.0] * 100), profile_of(y=["a"] * 80 + ["b"] * 20, z=[1.0] * 100)
    assert drift(now, before).exit_code == 0
    assert drift(now, before, thresholds=Thresholds(total_variation=0.31)).exit_code == 0
    made = drift(now, before, thresholds=Thresholds(total_variation=0.29, hellinger=0.3))
    assert (made.exit_code, made.exceeded) == (3, ("y: total variation 0.3000, and 0.29 is allowed",))
    assert drift(now, before, ["z"], Thresholds(total_variation=0.01)).exit_code == 0
    assert repr(made).startswith("Drift(2 columns, total variation: y 0.300, z 0.000; 1 beyond")


def test_a_column_that_is_gone_is_beyond_any_threshold_and_a_new_one_is_told() -> None:
    before, now = profile_of(y=["a", "b"] * 50, z=[1.0] * 100), profile_of(y=["a", "b"] * 50, w=[1.0] * 100)
    made = drift(now, before, thresholds=Thresholds(hellinger=1))
    assert (made.exit_code, made.missing, made.new) == (3, ("z",), ("w",))


def test_what_can_not_be_compared_is_refused() -> None:
    one, empty = profile_of(label=["a", "b"] * 9), profile_of(label=pa.array([], pa.string()))
    with pytest.raises(RefusedError, match="did you mean 'label'"):
        drift(one, one, ["labl"])
    for output, reference in ((one, empty), (empty, one)):
        with pytest.raises(RefusedError, match="no row"):
            drift(output, reference)
    with pytest.raises(RefusedError, match="between 0 and 1"):
        Thresholds(total_variation=1.5)


def test_a_drift_says_the_same_in_json() -> None:
    before, now = profile_of(y=["a", "b"] * 50), profile_of(y=["a"] * 80 + ["b"] * 20)
    value = drift(now, before, thresholds=Thresholds(total_variation=0.1)).to_json()
    assert value["exit_code"] == 3
    assert value["columns"][0]["labels"][0] == {"label": "a", "before": 0.5, "now": 0.8, "change": 0.3}


def test_whole_numbers_with_many_values_are_compared_with_such_with_few() -> None:
    few, many = np.arange(1000) % 50, np.arange(1000) % 100
    assert between(few, many).total_variation == pytest.approx(0.5, abs=0.03)


def test_of_structs_the_fields_are_compared() -> None:
    before = profile_of(answer=[{"label": "a", "score": n / 100} for n in range(100)])
    now = profile_of(answer=[{"label": "ab"[n % 2], "score": n / 100} for n in range(100)])
    made: Drift = drift(now, before, ["answer"])
    assert [(c.column, c.distance.total_variation) for c in made.columns] == [
        ("answer.label", pytest.approx(0.5)),
        ("answer", 0),
        ("answer.score", 0),
    ]
