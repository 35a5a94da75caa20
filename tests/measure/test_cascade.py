"""The threshold of a cascade: the exact bound, what it promises, and when there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batchinfer.errors import GateError
from batchinfer.measure.cascade import curve, find, least_share


@pytest.mark.parametrize("rows", [20, 512, 3000])
def test_the_bound_is_exact(rows: int) -> None:
    assert least_share(rows, rows) == pytest.approx(0.05 ** (1 / rows), abs=1e-9)
    assert least_share(1, rows) == pytest.approx(1 - 0.95 ** (1 / rows), abs=1e-9)
    assert least_share(0, rows) == 0.0
    for successes in (rows // 2, rows - 3):
        low = least_share(successes, rows)
        tail = (
            sum(math.comb(rows, k) * low**k * (1 - low) ** (rows - k) for k in range(successes, rows + 1))
            if rows < 600
            else 0.05
        )
        assert tail == pytest.approx(0.05, abs=1e-6)


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which the sure ones are mostly right."""
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.3, 1.0, rows)
    return confidence, generator.random(rows) < 1 - 0.6 * (1 - confidence) ** 1.5


def test_of_the_thresholds_that_hold_the_one_with_the_fewest_rows_is_taken() -> None:
    confidence, agrees = drawn(2000, 0)
    found = find(confidence, agrees, 0.95, "big")
    assert found.chosen.low >= 0.95
    at = found.curve.index(found.chosen)
    assert found.curve[at + 1].low < 0.95
    assert found.chosen.share == pytest.approx((confidence < found.chosen.threshold).mean())
    kept = confidence >= found.chosen.threshold
    assert found.chosen.agreement == pytest.approx(1 - (kept & ~agrees).mean())
    shares = [point.share for point in found.curve]
    assert shares == sorted(shares, reverse=True)
    assert found.curve[-1].share == 0


@pytest.mark.slow
def test_what_is_promised_is_broken_in_no_more_than_five_jobs_of_a_hundred() -> None:
    everything, right = drawn(400_000, 1)
    broken = 0
    for seed in range(200):
        at = np.random.default_rng(seed).choice(len(everything), 600, replace=False)
        chosen = find(everything[at], right[at], 0.94, "big").chosen
        broken += 1 - ((everything >= chosen.threshold) & ~right).mean() < 0.94
    assert 0 < broken <= 16  # of 200; more than 16 have a probability of 1 in 50 where 5 % are broken


def test_rows_that_are_the_whole_job_are_taken_as_they_are() -> None:
    confidence, agrees = drawn(300, 2)
    sampled, whole = (find(confidence, agrees, 0.9, "big", whole=w) for w in (False, True))
    assert whole.chosen.share < sampled.chosen.share
    assert whole.chosen.low == whole.chosen.agreement >= 0.9


def test_confidence_that_says_nothing_is_refused() -> None:
    generator = np.random.default_rng(3)
    agrees = generator.random(1000) < 0.9
    with pytest.raises(GateError, match=r"big\.cascade: of 1,000 rows .* carries no signal"):
        find(generator.random(1000), agrees, 0.8, "big")
    with pytest.raises(GateError, match="carries no signal"):
        find(np.ones(1000), agrees, 0.8, "big")
    confidence, agrees = drawn(1000, 4)
    with pytest.raises(GateError, match="carries no signal"):
        find(-confidence, agrees, 0.8, "big")


def test_where_no_threshold_will_do_the_curve_says_why() -> None:
    confidence, agrees = drawn(100, 5)
    with pytest.raises(GateError, match=r"at no threshold does .* on 99\.90% .*: 2% to it|at no threshold"):
        find(confidence, agrees, 0.999, "big")


def test_models_that_never_disagree_need_the_bigger_one_for_nothing() -> None:
    confidence = np.linspace(0.5, 1, 1000)
    found = find(confidence, np.ones(1000, np.bool_), 0.99, "big")
    assert (found.chosen.share, found.chosen.agreement) == (0.0, 1.0)
    assert found.chosen.threshold == 0.5


def test_equal_confidences_go_one_way() -> None:
    confidence = np.repeat([0.9, 0.5, 0.1], [50, 30, 20])
    points = curve(confidence, np.ones(100, np.bool_))
    assert [(p.threshold, p.share) for p in points] == [
        (0.9, pytest.approx(0.5)),
        (0.5, pytest.approx(0.2)),
        (0.1, 0.0),
    ]
