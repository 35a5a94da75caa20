"""Rows that kill, run by the real program: exactly they are dead, with what ended their process, and the job ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.run.poison import BATCH, ROWS, Poisoned

INLINE = {"resources": {"executor": "inline"}}
ON_RAY = {"resources": {"executor": "ray", "workers": 1, "cpus": 1}}


def test_rows_that_end_the_program_itself_are_found_in_its_third_run(tmp_path: Path) -> None:
    kinds = {0: "segfault", 9: "error", 17: "nan", 31: "hog", 40: "takes_all", 63: "kills_tokenizer"}
    job = Poisoned(tmp_path, kinds, **INLINE)
    codes = job.run_to_the_end(3)
    assert len(codes) == 3
    assert all(code < 0 for code in codes[:2])
    job.check()
    job.check_calls(deaths=2)


def test_a_row_that_hangs_is_found_in_one_run(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, {5: "hangs"}, **INLINE, retry={"timeout": "1s"})
    assert job.run_to_the_end(1) == [0]
    job.check()
    job.check_calls(deaths=1)


def test_a_call_that_holds_python_ends_the_program_with_its_stack(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, {5: "holds"}, **INLINE, retry={"timeout": "4s"})
    code, said = job.run()
    assert code == 1
    assert "in holds" in said


def test_a_model_that_ends_the_program_as_it_loads_is_refused_by_its_third_run(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, {}, {"stillborn": True}, **INLINE)
    assert [job.run()[0] for _ in range(2)] == [-signal.SIGSEGV] * 2
    code, said = job.run()
    assert code == 2
    assert "dying:Model can't be loaded" in said
    assert "SIGSEGV" in said


@pytest.mark.slow
@pytest.mark.ray
def test_a_row_that_ends_workers_is_found_in_one_run_on_ray(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, {30: "exits", 50: "nan"}, **ON_RAY, errors={"threshold": 1})
    code, said = job.run()
    assert code == 3, said
    assert "died" in said
    job.check(exit_code=3)
    job.check_calls(deaths=2)


@pytest.mark.chaos
@pytest.mark.ray
def test_a_row_that_ends_workers_and_the_runner_is_found_on_ray(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, {30: "exits", 50: "takes_all"}, **ON_RAY)
    codes = job.run_to_the_end(3)
    assert codes[:-1] == [-signal.SIGKILL] * (len(codes) - 1)
    job.check()
    job.check_calls(deaths=4)


KINDS = [
    "abort",
    "segfault",
    "exits",
    "sysexit",
    "hog",
    "error",
    "nan",
    "hangs",
    "takes_all",
    "kills_tokenizer",
    "hangs_tokenizer",
]


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [[], [0], [ROWS - 1], [0, 1, 40, 41, ROWS - 1]], ids=["none", "first", "last", "five"])
@pytest.mark.parametrize("place", [INLINE, ON_RAY], ids=["inline", "ray"])
def test_every_kind_at_every_place(tmp_path: Path, kind: str, at: list[int], place: dict[str, object]) -> None:
    job = Poisoned(tmp_path, dict.fromkeys(at, kind), **place, retry={"timeout": "2s"})
    job.run_to_the_end(3)
    job.check()
    job.check_calls(deaths=4)


@pytest.mark.chaos
def test_a_batch_of_nothing_but_rows_that_kill(tmp_path: Path) -> None:
    job = Poisoned(tmp_path, dict.fromkeys(range(2 * BATCH, 3 * BATCH), "exits"), **INLINE)
    job.run_to_the_end(3)
    job.check()
    job.check_calls(deaths=2)
