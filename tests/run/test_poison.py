"""Rows that kill, run by the real program: exactly they are dead, with what ended their process, and the job ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.run.poison import BATCH, Poisoned

INLINE = {"resources": {"executor": "inline"}}
ON_RAY = {"resources": {"executor": "ray", "workers": 1, "cpus": 1}}
ROWS = 100


@pytest.mark.slow
def test_rows_that_end_the_program_itself_are_found_in_its_third_run(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, ROWS, {0: "segfault", 3: "error", 70: "nan", 99: "hog"}, **INLINE)
    assert job.run_to_the_end(3) == [-signal.SIGSEGV, -signal.SIGSEGV, 0]
    job.check()
    job.check_calls()


@pytest.mark.slow
def test_a_row_that_hangs_is_found_in_one_run(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, ROWS, {99: "hangs"}, **INLINE, retry={"timeout": "700ms"})
    assert job.run_to_the_end(1) == [0]
    job.check()
    job.check_calls()


@pytest.mark.slow
@pytest.mark.ray
def test_rows_that_end_workers_and_the_runner_are_found_on_ray(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, ROWS, {30: "exits", 80: "takes_all"}, **ON_RAY)
    codes = job.run_to_the_end(3)
    assert codes[:-1] == [-signal.SIGKILL] * (len(codes) - 1)
    job.check()
    job.check_calls()


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["abort", "segfault", "exits", "sysexit", "hog", "error", "nan", "hangs"])
@pytest.mark.parametrize("at", [[], [0], [ROWS - 1], [0, 1, 40, 41, ROWS - 1]], ids=["none", "first", "last", "five"])
@pytest.mark.parametrize("place", [INLINE, ON_RAY], ids=["inline", "ray"])
def test_every_kind_at_every_place(tmp_path: Path, kind: str, at: list[int], place: dict[str, object]) -> None:
    job = Poisoned(tmp_path, ROWS, dict.fromkeys(at, kind), **place, retry={"timeout": "2s"})
    job.run_to_the_end(3)
    job.check()
    job.check_calls()


@pytest.mark.chaos
def test_a_batch_of_nothing_but_rows_that_kill(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, ROWS, dict.fromkeys(range(2 * BATCH, 3 * BATCH), "exits"), **INLINE)
    job.run_to_the_end(3)
    job.check()
