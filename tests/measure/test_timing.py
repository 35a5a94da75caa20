"""What is timed of a job, and what that says of one of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.measure.timing import Timed, one_pace, seconds_for, timed_batches
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


def test_of_a_large_sample_as_many_rows_are_prepared_as_are_timed_at_most() -> None:
    """Preparing counts as measuring: a first window of 4,500 texts took 0.3 s of the 1.3 that a job of a minute has for it."""
    prepared: list[list[int]] = []

    class Counting(FakeEngine):
        def prepare(self, rows: pa.Table) -> Any:
            prepared.append(rows["x"].to_pylist())
            return super().prepare(rows)

    engine = Counting(doubled)
    engine.load("cpu", "fp32", 1)
    timed_batches(engine, table(list(range(1000))), Budget(10, None), 1000)
    timed_batches(engine, table(list(range(30))), Budget(10, None), 1000)
    some, every = prepared
    assert (len(some), some[0], some[-1]) == (30, 0, 999)
    assert every == list(range(30))


@pytest.mark.parametrize(("warm", "calls"), [(True, 1), (False, 2)])
def test_what_has_just_answered_needs_no_warm_up(warm: bool, calls: int) -> None:
    engine = FakeEngine(doubled)
    engine.load("cpu", "fp32", 1)
    seconds_for(engine, Timed([[1, 2]], 2), warm=warm)
    assert engine.rows == 2 * calls
