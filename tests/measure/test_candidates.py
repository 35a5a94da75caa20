"""What is tried, when measuring ends, and what is taken: by made-up times."""

from __future__ import annotations

import pytest

from batchinfer.measure.candidates import Candidate, Job, instead, order, outrun, skipped, take, ungated

FP32, BF16, FP16 = Candidate("fp32", 32), Candidate("bf16", 16), Candidate("fp16", 16)
INT8, WEIGHT, INT4 = Candidate("int8", 8, compiles=True), Candidate("int8-weight", 8), Candidate("int4-weight", 4)
COMPILED = Candidate("bf16-compiled", 16, compiles=True)
ALL = [FP32, BF16, FP16, INT8, WEIGHT, INT4]


def test_what_compiles_is_tried_last_and_else_the_more_exact_first() -> None:
    assert order([INT4, INT8, WEIGHT, BF16, FP16]) == [BF16, FP16, WEIGHT, INT4, INT8]


@pytest.mark.parametrize(("rows", "tried"), [(1_000, False), (10_000, True)])
def test_measuring_may_cost_three_percent_of_the_job(rows: int, tried: bool) -> None:
    """At 0.1 s a row: loading takes 2 s and 10 rows 1 s, against 3 s and 30 s."""
    reason = skipped(BF16, Job(rows, 0.1, 2.0), timed_rows=10, spent=1.0)
    assert (reason is None) is tried


def test_what_was_spent_before_counts() -> None:
    job = Job(1_000, 0.1, 0.5)
    assert skipped(BF16, job, 10, spent=1.4) is None
    why = skipped(BF16, job, 10, spent=1.6)
    assert why is not None
    assert "timing it takes about 1.5 s after 1.6 s of measuring" in why
    assert "more than 3% of the job (100 s at full precision)" in why


def test_a_candidate_that_compiles_needs_a_job_of_half_an_hour() -> None:
    assert skipped(INT8, Job(17_000, 0.1, 0.1), 10, 0.0) is not None
    assert "compiling" in str(skipped(INT8, Job(17_000, 0.1, 0.1), 10, 0.0))
    assert skipped(INT8, Job(18_000, 0.1, 0.1), 10, 0.0) is None


def test_one_that_compiles_at_sixteen_bits_needs_half_of_that() -> None:
    assert skipped(COMPILED, Job(9_500, 0.1, 0.1), 10, 0.0) is not None
    assert skipped(COMPILED, Job(10_000, 0.1, 0.1), 10, 0.0) is None


def test_what_compiles_at_sixteen_bits_is_left_where_it_allows_fewer_calls_at_a_time_than_others() -> None:
    assert "ask for it by name" in str(outrun(COMPILED, 1, 2))
    assert outrun(COMPILED, 1, 1) is outrun(COMPILED, 2, 2) is None
    assert outrun(INT8, 1, 2) is outrun(BF16, 2, 2) is None


def test_full_precision_that_ran_on_the_sample_is_not_paid_again() -> None:
    job = Job(1_000, 0.01, 0.0)  # 0.3 s of measuring
    assert ungated(0.0001, job, 100, known=False, spent=0.0) is not None
    assert ungated(0.0001, job, 100, known=True, spent=0.0) is None


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [
        ({"fp32": 1.0, "bf16": 0.5, "int8-weight": 0.4}, "int8-weight"),
        ({"fp32": 1.0, "bf16": 0.97}, "fp32"),
        ({"fp32": 1.0, "bf16": 0.5, "int8-weight": 0.49}, "bf16"),
        ({"fp32": 1.0, "bf16": 0.51, "fp16": 0.5}, "bf16"),
        ({"fp32": 1.0}, "fp32"),
    ],
    ids=["the fastest", "noise", "noise between two", "of equal bits the first", "nothing else"],
)
def test_the_fastest_is_taken_unless_a_more_exact_one_is_as_fast(seconds: dict[str, float], taken: str) -> None:
    assert take(seconds, ALL)[0] == taken


def test_in_place_of_one_that_failed_comes_the_next_in_bits_that_does_not_compile() -> None:
    assert instead(INT4, ALL) == [WEIGHT, BF16, FP16, FP32]
    assert instead(INT8, ALL) == [BF16, FP16, FP32]
