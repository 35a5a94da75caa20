"""Intervals hold what they promise: how often they cover the truth is counted."""

from __future__ import annotations

import numpy as np
import pytest

from batchinfer.measure import intervals

ENDLESS = 10**9


def test_the_interval_of_a_mean_covers_it_where_the_values_have_a_long_tail() -> None:
    chance = np.random.default_rng(1)
    truth = 1 - np.exp(-7 + 0.5)
    found = [intervals.mean(1 - chance.lognormal(-7, 1.0, 256), ENDLESS) for _ in range(300)]
    assert sum(f.low <= truth <= f.high for f in found) / 300 > 0.92
    assert sum(f.low <= truth for f in found) / 300 > 0.95  # the bound that decides


@pytest.mark.parametrize("share", [0.9, 0.97, 0.99])
def test_the_interval_of_a_share_covers_it(share: float) -> None:
    chance = np.random.default_rng(2)
    found = [intervals.proportion(int(k), 512, ENDLESS) for k in chance.binomial(512, share, 2000)]
    assert 0.93 < sum(f.low <= share <= f.high for f in found) / 2000 < 0.975


def test_the_bound_of_a_low_percentile_holds_whatever_the_distribution() -> None:
    chance = np.random.default_rng(3)
    truth = -np.quantile(chance.lognormal(0, 1, 2_000_000), 0.99)
    found = [intervals.low_percentile(-chance.lognormal(0, 1, 512), 0.01, ENDLESS) for _ in range(2000)]
    assert sum(f.low <= truth for f in found) / 2000 > 0.97
    assert sum(f.low <= truth <= f.high for f in found) / 2000 > 0.94


def test_the_bound_of_a_drop_holds_for_pairs() -> None:
    chance = np.random.default_rng(4)
    covered = 0
    for _ in range(1000):
        before = chance.random(512) < 0.9
        after = np.where(chance.random(512) < 0.03, ~before, before)
        covered += intervals.drop(before, after, ENDLESS).high >= 0.9 - (0.9 * 0.97 + 0.1 * 0.03)
    assert covered / 1000 > 0.95


def test_a_known_value_of_wilson_and_newcombe() -> None:
    """81 of 263, from Newcombe 1998 (Statistics in Medicine 17:857, table I, case a, method 3)."""
    assert intervals.proportion(81, 263, ENDLESS)[1:] == pytest.approx((0.2553, 0.3662), abs=1e-4)
    same = np.ones(512, bool)
    assert intervals.drop(same, same, ENDLESS).high == pytest.approx(1 - 512 / (512 + 1.96**2), abs=1e-4)


def test_a_sample_that_is_the_whole_job_leaves_nothing_uncertain() -> None:
    values = np.random.default_rng(5).normal(size=100)
    right = values > 0
    for found in (
        intervals.mean(values, 100),
        intervals.proportion(97, 100, 100),
        intervals.low_percentile(values, 0.01, 100),
        intervals.drop(right, ~right, 100),
    ):
        assert found.low == pytest.approx(found.value) == pytest.approx(found.high)


def test_the_same_sample_gives_the_same_interval() -> None:
    values = np.random.default_rng(6).normal(size=100)
    assert intervals.mean(values, ENDLESS) == intervals.mean(values, ENDLESS)
