"""What is timed of a job, and what that says of one of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from batchinfer.measure.timing import one_pace, timed_batches
from batchinfer.pipeline.batching import Budget
from tests.measure.fake_engine import FakeEngine, doubled, table


def test_timed_batches_count_as_the_rows_of_mean_length_that_they_come_to() -> None:
    """28 rows of 300 tokens: each batch of 60 is worth a fifth of them, whether it has two rows or twenty."""
    engine = FakeEngine(doubled, lengths=True)
    engine.load("cpu", "fp32", 1)
    rows, budget = table([30] * 8 + [3] * 20), Budget(512, 60)
    timed = timed_batches(engine, rows, budget, 18)
    assert timed is not None
    assert [len(payload) for payload in timed.payloads] == [2, 2, 20]
    assert timed.rows == pytest.approx((60 + 60 + 60) / (300 / 28))
    alone = timed_batches(engine, rows, budget, 16)
    assert alone is not None
    assert ([len(payload) for payload in alone.payloads], alone.rows) == ([2], pytest.approx(60 / (300 / 28)))
    assert timed_batches(engine, rows, budget, 5) is None


def test_the_job_is_estimated_by_rows_of_mean_length() -> None:
    """A model that takes a millisecond a token, and rows of ten tokens on average: ten milliseconds a row, by whichever batch."""
    now = [0.0]

    def a_millisecond_a_token(batch: list[int]) -> Mapping[str, Any]:
        now[0] += 0.001 * sum(batch)
        return doubled(batch)

    engine = FakeEngine(a_millisecond_a_token, lengths=True)
    engine.load("cpu", "fp32", 1)
    rows, budget = table([40] * 5 + [10] * 20 + [4] * 25), Budget(512, 80)
    assert one_pace(engine, rows, budget, 100, lambda: now[0]) == pytest.approx(0.01)
