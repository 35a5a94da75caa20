"""Rows that kill, run by the real program: exactly they are dead, with what ended their process, and the job ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.run.poison import Poisoned

INLINE = {"resources": {"executor": "inline"}}
ROWS = 200


@pytest.mark.slow
def test_rows_that_end_the_program_itself_are_found_in_its_third_run(tmp_path: Path) -> None:
    kinds = {0: "segfault", 3: "error", 50: "exits", 60: "nan", 121: "hog", 122: "sysexit", 199: "abort"}
    job = Poisoned(tmp_path, ROWS, kinds, **INLINE)
    assert job.run_to_the_end(3) == [-signal.SIGSEGV, -signal.SIGSEGV, 0]
    job.check()
    job.check_calls()


@pytest.mark.slow
def test_a_row_that_hangs_is_found_in_one_run(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, ROWS, {0: "hangs", 140: "hangs"}, **INLINE, retry={"timeout": "700ms"})
    assert job.run_to_the_end(1) == [0]
    job.check()
    job.check_calls()


@pytest.mark.slow
@pytest.mark.ray
def test_rows_that_end_workers_and_the_runner_are_found_on_ray(tmp_path: Path) -> None:
    kinds = {70: "segfault", 100: "error", 130: "takes_all", 199: "hangs"}
    resources = {"executor": "ray", "workers": 1, "cpus": 1}
    job = Poisoned(tmp_path, ROWS, kinds, resources=resources, retry={"timeout": "2s"})
    codes = job.run_to_the_end(3)
    assert codes[:-1] == [-signal.SIGKILL] * (len(codes) - 1)
    job.check()
    job.check_calls()
