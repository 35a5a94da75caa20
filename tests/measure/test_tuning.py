"""How far budgets and streams are turned up or down, by made-up paces."""

from __future__ import annotations

import pytest

from batchinfer.measure.tuning import climb, split, streams, usual


@pytest.mark.parametrize(
    ("paces", "best", "tried"),
    [
        ({4: 100, 8: 120, 16: 140, 32: 141}, 16, [4, 8, 16, 32]),
        ({2: 130, 4: 100, 8: 90, 1: 120}, 2, [4, 8, 2, 1]),
        ({2: 90, 4: 100, 8: 104}, 4, [4, 8, 2]),
        ({2: 90, 4: 100, 8: None, 16: 900}, 4, [4, 8, 2]),
        ({4: 100}, 4, [4]),
    ],
    ids=[
        "up while it pays",
        "down where up is slower",
        "a gain within the noise is none",
        "memory ends it",
        "no choice",
    ],
)
def test_a_quantity_goes_where_it_is_faster(paces: dict[int, float | None], best: int, tried: list[int]) -> None:
    asked: list[int] = []

    def pace(value: int) -> float | None:
        asked.append(value)
        return paces[value]

    found, measured = climb(4, list(paces), pace)
    assert (found, asked) == (best, tried)
    assert measured == {value: paces[value] for value in tried}


def test_where_there_is_no_time_for_the_first_nothing_else_is_tried() -> None:
    assert climb(4, [2, 8], lambda _: None) == (4, {4: None})


def test_threads_are_spent_evenly() -> None:
    assert [streams(n) for n in (1, 2, 3, 6, 8, 12)] == [[1], [1, 2], [1], [1, 2], [1, 2, 4, 8], [1, 2, 4]]


@pytest.mark.parametrize(
    ("start", "paces", "best"),
    [
        (1, {1: 100, 2: 104, 4: 102, 8: 100}, 8),
        (1, {1: 100, 2: 130, 4: 120, 8: 140}, 2),
        (2, {1: 300, 2: 100, 4: 101, 8: 90}, 4),
        (4, {1: 200, 2: 120, 4: 100, 8: 90}, 1),
        (4, {1: 200, 2: 104, 4: 100, 8: 90}, 4),
        (4, {2: 124_000, 4: 100_001, 8: 90_000, 1: 200_000}, 8),
        (4, {2: 126_000, 4: 100_001, 8: 70_000, 1: 130_000}, 2),
        (1, {1: 100, 2: None, 4: 200}, 1),
        (4, {4: None}, 4),
    ],
    ids=[
        "no slower",
        "slower than the best",
        "more at the same pace",
        "fewer are faster",
        "fewer are faster within the noise",
        "light rows",
        "light rows and much faster",
        "no room",
        "no time",
    ],
)
def test_threads_are_split_into_as_many_calls_as_cost_no_pace(
    start: int, paces: dict[int, float | None], best: int
) -> None:
    found, measured = split(start, 8, paces.__getitem__)
    assert found == best
    assert measured.items() <= paces.items()


def test_untried_threads_are_split_into_a_few_calls() -> None:
    assert [usual(n) for n in (1, 2, 3, 6, 8, 12, 16)] == [1, 2, 1, 2, 4, 4, 4]
