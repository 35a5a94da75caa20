"""Bisection, and batches: properties that hold for all inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from batchinfer.errors import ModelError, StorageError
from batchinfer.worker.isolate import isolate


class Failing:
    """Fails where one of `bad` is in the batch; notes what it was given."""

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad
        self.seen: list[list[int]] = []

    def __call__(self, rows: NDArray[np.intp]) -> list[int]:
        self.seen.append(rows.tolist())
        found = self.bad.intersection(rows.tolist())
        if found:
            raise ValueError(f"bad: {min(found)}")
        return [int(n) for n in rows]


@st.composite
def failures(draw: st.DrawFn) -> tuple[list[int], set[int]]:
    rows = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=120, unique=True))
    return rows, set(draw(st.lists(st.sampled_from(rows), min_size=1, unique=True)))


@given(failures())
@settings(max_examples=150, deadline=None)
def test_exactly_the_bad_rows_die_and_every_other_has_one_result(case: tuple[list[int], set[int]]) -> None:
    rows, bad = case
    attempt = Failing(bad)
    found = isolate(attempt, np.array(rows))
    assert sorted(at for at, _ in found.dead) == sorted(bad)
    results = [n for _, result in found.results for n in result]
    assert sorted(results) == sorted(set(rows) - bad)
    assert all(positions_.tolist() == result for positions_, result in found.results)
    assert all(e.attempts == 2 and e.error_type == "ValueError" and e.message == f"bad: {at}" for at, e in found.dead)
    assert found.calls == len(attempt.seen) <= (2 * math.ceil(math.log2(len(rows))) + 1) * len(bad)


@given(failures())
@settings(max_examples=50, deadline=None)
def test_a_bad_row_has_failed_alone_twice_counting_the_batch_of_one(case: tuple[list[int], set[int]]) -> None:
    rows, bad = case
    attempt = Failing(bad)
    isolate(attempt, np.array(rows))
    alone = 2 if len(rows) > 1 else 1  # the batch that brought us here was the first
    for row in bad:
        assert attempt.seen.count([row]) == alone


def test_a_row_that_fails_once_and_then_not_lives() -> None:
    fails = iter([True, True])

    def flaky(rows: NDArray[np.intp]) -> int:
        if next(fails, False):
            raise TimeoutError
        return len(rows)

    found = isolate(flaky, np.arange(2))
    assert found.dead == []
    assert sum(r for _, r in found.results) == 2


def test_rows_that_fail_only_together_all_live() -> None:
    def together(rows: NDArray[np.intp]) -> int:
        if len(rows) > 3:
            raise MemoryError
        return len(rows)

    found = isolate(together, np.arange(16))
    assert found.dead == []
    assert sum(r for _, r in found.results) == 16


@pytest.mark.parametrize("error", [ModelError("wrong count"), StorageError("away")])
def test_what_is_no_rows_fault_is_raised(error: Exception) -> None:
    def attempt(_rows: NDArray[np.intp]) -> None:
        raise error

    with pytest.raises(type(error)):
        isolate(attempt, np.arange(8))


def test_an_exception_that_cannot_say_what_it_is_costs_its_row_alone() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def attempt(rows: NDArray[np.intp]) -> int:
        if 3 in rows:
            raise MuteError
        return len(rows)

    found = isolate(attempt, np.arange(8))
    ((at, error),) = found.dead
    assert (at, error.error_type) == (3, "MuteError")
    assert error.message


def test_a_message_holds_no_secret_no_address_and_no_novel() -> None:
    def attempt(_rows: NDArray[np.intp]) -> None:
        raise ValueError(f"<Model at 0x7f12ab34cd56> password=hunter2hunter2 {'x' * 10_000}")

    ((_, error),) = isolate(attempt, np.arange(1)).dead
    assert "0x7f12" not in error.message
    assert "hunter2" not in error.message
    assert len(error.message) <= 2048
