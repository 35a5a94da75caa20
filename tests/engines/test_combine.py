"""Ensembles: what is made of several columns, beside scikit-learn's way to do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.engines.combine import combine_engine
from batchinfer.errors import ModelError
from batchinfer.job.steps import CombineStep

ALL = {
    "vote": "value share votes",
    "soft_vote": "value index label share votes",
    "mean": "value votes",
    "max": "value votes",
}


def combined(method: str, columns: dict[str, Any], outputs: str = "", **more: Any) -> dict[str, list[Any]]:
    names = [n for n in (outputs or ALL[method]).split() if n != "label" or "labels" in more]
    step = CombineStep(
        name="all",
        combine=method,
        inputs=tuple(columns),
        outputs={n: n for n in names},
        **more,  # type: ignore[arg-type]
    )
    table = pa.table(columns)
    engine = combine_engine(step)
    given = engine.finish(engine.infer(engine.prepare(table).batch(slice(0, len(table)))))
    types = engine.types(table.schema)
    assert {name: array.type for name, array in given.items()} == types
    return {name: array.to_pylist() for name, array in given.items()}


def test_nulls_take_no_part() -> None:
    columns = {"a": [1.0, None, None], "b": [3.0, 5.0, None]}
    assert combined("mean", columns) == {"value": [2.0, 5.0, None], "votes": [2, 1, 0]}
    assert combined("max", columns) == {"value": [3.0, 5.0, None], "votes": [2, 1, 0]}
    assert combined("vote", {"a": ["x", None, None], "b": ["x", "y", None]}) == {
        "value": ["x", "y", None],
        "share": [1.0, 1.0, None],
        "votes": [2, 1, 0],
    }


def test_weights_are_those_of_the_members_that_take_part() -> None:
    columns = {"a": [1.0, None], "b": [4.0, 4.0], "c": [7.0, 7.0]}
    assert combined("mean", columns, weights=(2, 1, 1))["value"] == [3.25, 5.5]
    assert combined("vote", {"a": ["x", None], "b": ["y", "y"], "c": ["y", "z"]}, weights=(3, 1, 1)) == {
        "value": ["x", "y"],
        "share": [0.6, 0.5],
        "votes": [3, 2],
    }


def test_of_values_with_as_many_votes_the_smallest_wins() -> None:
    """As scikit-learn has it: numpy's argmax of the counts by class."""
    assert combined("vote", {"a": [3, 2], "b": [1, 2], "c": [2, 9]}, "value")["value"] == [1, 2]
    assert combined("vote", {"a": ["b"], "b": ["a"]}, "value")["value"] == ["a"]


def test_vectors_are_combined_place_by_place() -> None:
    kind = pa.list_(pa.float32(), 2)
    a, b = pa.array([[0.2, 0.8], None], kind), pa.array([[0.6, 0.4], [0.9, 0.1]], kind)
    mean = combined("mean", {"a": a, "b": b}, "value")["value"]
    assert np.allclose(mean, [[0.4, 0.6], [0.9, 0.1]])
    assert np.allclose(combined("max", {"a": a, "b": b}, "value")["value"], [[0.6, 0.8], [0.9, 0.1]])
    soft = combined("soft_vote", {"a": a, "b": b}, labels=("no", "yes"))
    assert (soft["index"], soft["label"], soft["votes"]) == ([1, 0], ["yes", "no"], [2, 1])
    assert np.allclose(soft["share"], [0.6, 0.9])
    lists = combined("mean", {"a": [[1.0, 2.0], [3.0, 4.0]], "b": [[3.0, 4.0], None]}, "value")["value"]
    assert lists == [[2.0, 3.0], [3.0, 4.0]]


def test_a_row_whose_vectors_are_of_two_lengths_is_a_bad_row() -> None:
    with pytest.raises(ValueError, match="2 and 3 places"):
        combined("mean", {"a": [[1.0, 2.0]], "b": [[1.0, 2.0, 3.0]]}, "value")


@pytest.mark.parametrize(
    ("method", "columns", "message"),
    [
        (
            "mean",
            {"a": ["x"], "b": [1.0]},
            "mean takes columns of numbers, or of vectors of numbers, and these are a: string, b: double",
        ),
        ("mean", {"a": [1.0], "b": [[1.0]]}, "a: double, b: list"),
        ("vote", {"a": ["x"], "b": [1]}, "vote takes columns of one type"),
        ("vote", {"a": [[1.0]], "b": [[1.0]]}, "vote takes columns of one type"),
        ("soft_vote", {"a": [1.0], "b": [1.0]}, "soft_vote takes columns of vectors"),
    ],
)
def test_columns_that_do_not_go_together_are_told(method: str, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        combined(method, columns, "value")


def test_vectors_of_more_places_than_there_are_labels_are_told() -> None:
    with pytest.raises(ModelError, match="3 places, and there are 2 labels"):
        combined("soft_vote", {"a": [[1.0, 2, 3]], "b": [[1.0, 2, 3]]}, "label", labels=("a", "b"))


@pytest.mark.parametrize("types", [(pa.int8(), pa.int64()), (pa.int32(), pa.float64())])
def test_numbers_of_several_types_vote_and_are_averaged(types: tuple[pa.DataType, pa.DataType]) -> None:
    columns = {"a": pa.array([1, 2], types[0]), "b": pa.array([1, 4], types[1])}
    assert combined("vote", columns, "value")["value"] == [1, 2]
    assert combined("mean", columns, "value")["value"] == [1.0, 3.0]
