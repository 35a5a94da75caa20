"""Which rows the model sees together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.measure.choose import CPU_TOKENS, GPU_TOKENS, TOKEN_ROWS
from batchinfer.pipeline.batching import Budget, batches, positions

BUDGETS = st.builds(Budget, st.integers(1, 40), st.none() | st.integers(1, 3000))
LENGTHS = st.lists(st.integers(0, 600), max_size=200)


@given(LENGTHS, BUDGETS)
@settings(max_examples=200, deadline=None)
def test_batches_hold_each_row_once_within_the_budget(lengths: list[int], budget: Budget) -> None:
    sizes = np.array(lengths, np.int64)
    cut = [positions(b) for b in batches(len(lengths), sizes, budget)]
    assert sorted(int(n) for b in cut for n in b) == list(range(len(lengths)))
    for batch in cut:
        assert 1 <= len(batch) <= budget.rows
        if budget.tokens is not None:
            assert len(batch) == 1 or len(batch) * sizes[batch].max() <= budget.tokens
    again = [positions(b) for b in batches(len(lengths), sizes.copy(), budget)]
    assert all(np.array_equal(a, b) for a, b in zip(cut, again, strict=True))


@given(LENGTHS, BUDGETS)
@settings(max_examples=100, deadline=None)
def test_batches_go_from_long_to_short_and_equal_rows_keep_their_order(lengths: list[int], budget: Budget) -> None:
    if budget.tokens is None:
        budget = Budget(budget.rows, 512)
    sizes = np.array(lengths, np.int64)
    order = [int(n) for b in batches(len(lengths), sizes, budget) for n in positions(b)]
    assert order == sorted(range(len(lengths)), key=lambda n: (-lengths[n], n))


@given(st.integers(0, 300), st.integers(1, 70))
def test_rows_without_lengths_are_slices_in_order(count: int, rows: int) -> None:
    cut: list[Any] = list(batches(count, None, Budget(rows)))
    assert all(isinstance(s, slice) for s in cut)
    assert [n for s in cut for n in positions(s)] == list(range(count))
    assert all(s.stop - s.start == rows for s in cut[:-1])


@given(LENGTHS, BUDGETS)
@settings(max_examples=100, deadline=None)
def test_a_batch_is_as_large_as_the_budget_allows(lengths: list[int], budget: Budget) -> None:
    if budget.tokens is None:
        return
    sizes = np.array(lengths, np.int64)
    cut = [positions(b) for b in batches(len(lengths), sizes, budget)]
    for batch in cut[:-1]:
        one_more = (len(batch) + 1) * max(1, int(sizes[batch[0]]))
        assert len(batch) == budget.rows or one_more > budget.tokens


@pytest.mark.parametrize("tokens", [CPU_TOKENS, GPU_TOKENS])
def test_every_64th_text_a_hundred_times_longer_pads_little(tokens: int) -> None:
    """A window of text, 4,096 rows, cut at 512 tokens: unsorted, batches of 64 hold ten times as many tokens as are real."""
    lengths = np.random.default_rng(0).integers(4, 10, 4096)
    lengths[::64] *= 100
    lengths = np.minimum(lengths, 512)
    padded = sum(len(b) * int(lengths[b].max()) for b in batches(len(lengths), lengths, Budget(TOKEN_ROWS, tokens)))
    assert padded <= 1.15 * lengths.sum()
    assert 10 * lengths.sum() < 4096 * 512
