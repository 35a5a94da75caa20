"""The ledger under simulation: no history breaks a promise, and a broken ledger doesn't go unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from batchinfer.testing.simulator import campaign, simulate
from batchinfer.testing.simulator.__main__ import main
from batchinfer.testing.simulator.mutants import MUTANTS

SEEDS = 2000
MOST = 1500
"""Seeds that a mutant may need."""
JOBS = os.cpu_count() or 1
KINDS = {"corrupt", "crash", "late", "lost", "pause", "refused", "stale", "stall"}


@pytest.mark.slow
def test_no_history_breaks_a_promise(capsys: pytest.CaptureFixture[str]) -> None:
    total = campaign.Campaign()
    for some in campaign.run(range(SEEDS), JOBS):
        total.add(some)
    with capsys.disabled():
        print(f"\n{total}")
    assert total.seeds == SEEDS
    assert not total.violations, str(total)
    assert set(total.faults) == KINDS
    assert min(total.faults.values()) >= 5


@pytest.mark.slow
def test_every_mutant_is_caught(capsys: pytest.CaptureFixture[str]) -> None:
    caught = []
    for one in campaign.hunt_all(MOST, JOBS):
        caught.append(one)
        with capsys.disabled():
            print(f"\n{one}", end="")
    assert [c.mutant for c in caught] == list(MUTANTS)
    assert [c.mutant for c in caught if c.violation is None] == []


@pytest.mark.parametrize("seed", [3, 35, 261])
def test_a_seed_is_one_history_in_any_process(seed: int) -> None:
    told = str(simulate(seed))
    assert str(simulate(seed)) == told
    command = [sys.executable, "-m", "batchinfer.testing.simulator", "--seed", str(seed)]
    other = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "77"}
    )
    assert (other.returncode, other.stdout) == (0, f"{told}\n")


def test_a_failing_seed_is_told_operation_by_operation(capsys: pytest.CaptureFixture[str]) -> None:
    seed = campaign.hunt("success-before-the-manifest", MOST).seeds - 1
    assert main(["--seed", str(seed), "--mutant", "success-before-the-manifest"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"seed {seed}: ")
    assert told[-1].startswith("VIOLATION: run")
    assert "_SUCCESS over no manifest" in told[-1]
    assert told[-3].endswith("put data/_SUCCESS")


def test_many_seeds_are_summed_up_with_the_command_that_tells_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--first", "5", "--jobs", "1"]) == 0
    assert capsys.readouterr().out.startswith("3 seeds, ")
    total = campaign.Campaign(violations={7: "what broke\nin detail"})
    assert "python -m batchinfer.testing.simulator --seed 7   # what broke\n" in f"{total}\n"
