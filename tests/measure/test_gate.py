"""The quality gate: what it compares, what decides, and what it refuses to judge."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.errors import GateError
from batchinfer.job.steps import Gate
from batchinfer.measure.gate import compare
from batchinfer.measure.verdict import Verdict

ENDLESS = 10**9
CHANCE = np.random.default_rng(0)
FULL = CHANCE.normal(size=(512, 16))


def vectors(values: Any) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(values, np.float64).ravel()), np.shape(values)[1])


def judged(full: pa.Array, other: pa.Array, population: int = ENDLESS, labels: Any = None, **gate: Any) -> Verdict:
    return compare({"y": full}, {"y": other}, Gate(**gate), population, labels)


def noisy(scale: float) -> np.ndarray:
    return FULL + np.random.default_rng(1).normal(scale=scale, size=FULL.shape)


def test_embeddings_that_hardly_moved_pass_and_their_neighbours_are_reported() -> None:
    verdict = judged(vectors(FULL), vectors(noisy(0.01)))
    assert verdict.passed
    assert verdict.rows == 512
    assert verdict.figures["y: agreement of the nearest neighbour"].value > 0.9
    assert [c.metric for c in verdict.checks] == ["mean cosine", "1st percentile of the cosine"]


def test_a_broken_tail_fails_though_the_mean_is_good() -> None:
    other = noisy(0.01)
    other[:12] = -other[:12] * 0 + CHANCE.normal(size=(12, 16)) * 0.3 + FULL[:12]  # 12 of 512 rows are off
    mean, tail = judged(vectors(FULL), vectors(other)).checks
    assert mean.passed
    assert not tail.passed


def test_the_bound_decides_and_not_the_value() -> None:
    full = pa.array(["a"] * 512)
    other = pa.array(["a"] * 500 + ["b"] * 12)  # 0.977, whose interval begins at 0.959
    verdict = judged(full, other)
    assert verdict.checks[0].value > 0.97
    assert not verdict.passed
    assert judged(full, other, population=512).passed  # all rows of the job: nothing is uncertain
    assert judged(full, other, min=0.95).passed


def test_scores_beside_labels_are_reported_and_decide_nothing() -> None:
    full = {"label": pa.array(["a", "b"] * 256), "score": pa.array([0.9] * 512)}
    other = {"label": pa.array(["a", "b"] * 256), "score": pa.array([0.5] * 512)}
    verdict = compare(full, other, Gate(), ENDLESS)
    assert verdict.passed
    assert verdict.figures["score: mean absolute error"].value == pytest.approx(0.4)


def test_labels_inside_structures_agree_apart_from_their_scores() -> None:
    kind = pa.list_(pa.struct([("word", pa.string()), ("score", pa.float32())]))
    full = pa.array([[{"word": "Bonn", "score": 0.9}]] * 512, kind)
    same = pa.array([[{"word": "Bonn", "score": 0.8}]] * 512, kind)
    other = pa.array([[{"word": "Köln", "score": 0.9}]] * 512, kind)
    assert judged(full, same).passed
    assert judged(full, same).figures["y: mean absolute error of scores"].value == pytest.approx(0.1, abs=1e-6)
    assert not judged(full, other).passed


def test_scores_of_classes_can_be_judged_by_the_greatest() -> None:
    swapped = FULL[:, ::-1]
    assert judged(vectors(FULL), vectors(FULL * 3 + 1), metric="agreement").passed
    assert not judged(vectors(FULL), vectors(swapped), metric="agreement").passed


def test_numbers_are_judged_by_their_error_over_their_spread() -> None:
    full = 1000 + CHANCE.normal(size=512)
    assert judged(pa.array(full), pa.array(full + 0.001)).passed
    offset = judged(pa.array(full), pa.array(full + 0.1))  # 0.01 % of the value, 10 % of what varies
    assert not offset.passed
    off = full.copy()
    off[:12] += 0.3
    mean, tail = judged(pa.array(full), pa.array(off)).checks
    assert mean.value < 0.01
    assert not tail.passed


def test_a_label_column_bounds_the_drop_of_the_accuracy() -> None:
    truth = pa.array([n % 3 for n in range(512)])
    full = pa.array([str(n % 3) for n in range(512)])
    worse = pa.array([str((n + (n % 64 == 0)) % 3) for n in range(512)])  # 8 rows of 512 are wrong now
    assert judged(full, full, labels=truth, min=0.5).passed
    drop = judged(full, worse, labels=truth, min=0.5)
    assert drop.checks[-1].value == pytest.approx(8 / 512)
    assert not drop.passed


def test_a_label_column_bounds_the_growth_of_a_regressions_error() -> None:
    truth = CHANCE.normal(size=512)
    full, worse = truth + 0.1, truth + 0.12
    assert judged(pa.array(full), pa.array(full), labels=pa.array(truth)).checks[-1].passed
    assert judged(pa.array(full), pa.array(worse), labels=pa.array(truth)).checks[-1].value == pytest.approx(0.2)


def test_a_label_that_the_model_never_says_is_refused() -> None:
    with pytest.raises(GateError, match=r"gate\.label: full precision's y .* is never what the label says"):
        judged(pa.array(["POSITIVE"] * 99), pa.array(["POSITIVE"] * 99), labels=pa.array([1] * 99))
    with pytest.raises(GateError, match=r"gate\.label: goes with an output of labels"):
        judged(vectors(FULL), vectors(FULL), labels=pa.array([1] * 512))


def test_rows_without_a_value_at_full_precision_are_left_out_and_counted() -> None:
    full, other = vectors(FULL).to_pylist(), vectors(noisy(0.01)).to_pylist()
    full[0], full[1] = None, [float("nan")] * 16
    kind = pa.list_(pa.float64(), 16)
    verdict = judged(pa.array(full, kind), pa.array(other, kind))
    assert verdict.passed
    assert (verdict.rows, verdict.left_out, verdict.lost) == (510, 2, 0)


def test_a_row_that_only_the_candidate_cannot_answer_fails_it() -> None:
    other = noisy(0.01)
    other[7] = np.inf
    verdict = judged(vectors(FULL), vectors(other))
    assert verdict.lost == 1
    assert not verdict.passed
    assert not compare({"y": vectors(FULL)}, {"y": vectors(FULL)}, Gate(), ENDLESS, lost=3).passed


def test_too_few_rows_are_refused_unless_the_job_has_no_more() -> None:
    few = vectors(FULL[:20])
    with pytest.raises(GateError, match=r"only 20 of the 512 sampled rows .* 32 are needed"):
        compare({"y": few}, {"y": few}, Gate(), ENDLESS, left_out=492)
    assert judged(few, few, population=20).passed


def test_a_metric_that_suits_no_output_is_refused() -> None:
    with pytest.raises(GateError, match=r"gate\.metric: cosine is for vector outputs, and there are y \(label\)"):
        judged(pa.array(["a"] * 99), pa.array(["a"] * 99), metric="cosine")


def test_a_verdict_reads_back_from_its_record() -> None:
    verdict = judged(vectors(FULL), vectors(noisy(0.3)))
    back = Verdict.from_json(json.loads(json.dumps(verdict.to_json())))
    assert back == verdict
    assert not back.passed
    assert str(back).startswith("failed on 512 rows: y: mean cosine 0.9")
