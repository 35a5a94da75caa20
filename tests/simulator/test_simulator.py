"""The ledger under simulation: no history breaks a promise, and a broken ledger doesn't go unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
from random import Random

import pytest

from batchinfer.testing.simulator import campaign, simulate
from batchinfer.testing.simulator.__main__ import main
from batchinfer.testing.simulator.mutants import MUTANTS
from batchinfer.testing.simulator.shape import PIPELINES, SHAPES, drawn_further, shape

SEEDS, AT_ONCE = 600, 300
MOST = 1500
"""Seeds that a mutant may need."""
CAUGHT_BY = {
    "no-read-back-after-a-lost-create": 83,
    "a-listing-decides": 106,
    "a-look-decides": 119,
    "chunks-go-before-the-part": 40,
    "chunks-are-not-checked": 314,
    "a-later-step-loses-its-chunks": 66,
    "the-manifest-is-put": 47,
    "a-restart-leaves-success": 14,
    "a-listing-tells-the-newest-record": 75,
    "late-parts-stay": 7,
    "success-is-not-looked-at-again": 4,
    "a-late-runner-leaves-a-replaced-part": 476,
    "a-changed-file-is-passed-over-under-success": 1159,
    "an-extension-builds-on-an-open-generation": 60,
}
"""As `python -m batchinfer.testing.simulator --mutants` said last of those that need many seeds."""
KINDS = {"corrupt", "crash", "late", "lost", "pause", "refused", "stale", "stall"}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_no_history_breaks_a_promise(first: int) -> None:
    total = campaign.of(range(first, first + AT_ONCE))
    assert total.seeds == AT_ONCE
    assert not total.violations, str(total)
    assert set(total.faults) == KINDS
    assert min(total.faults.values()) >= 2  # damaged chunks are rare


@pytest.mark.parametrize("seed", [1707, 5685, 8168, 9995, 21931, 33384, 38448])
def test_a_history_of_one_step_that_broke_a_promise_once_does_so_no_more(seed: int) -> None:
    assert not simulate(seed, plain=True).violations


@pytest.mark.parametrize(
    ("seed", "about"),
    [
        (13, "rows of a file that is gone for now, passed over and never predicted"),
        (1126, "a late runner that leaves a part in the place of a replaced one"),
        (60, "an extension of a generation that another runner has just begun"),
        (3229, "_SUCCESS over the parts of files that are passed over"),
    ],
)
def test_a_history_that_broke_a_promise_once_does_so_no_more(seed: int, about: str) -> None:
    assert not simulate(seed).violations, about


def test_seeds_draw_every_pipeline_and_everything_that_becomes_of_files_that_are_gone() -> None:
    drawn = [drawn_further(shape(seed % SHAPES, 0), Random(f"further {seed}")) for seed in range(100)]
    assert {job.pipeline for job in drawn} == set(range(len(PIPELINES)))
    assert {job.on_removed for job in drawn} == {None, "error", "keep", "drop"}
    assert {len(job.files) for job in drawn} == {1, 2, 3}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught(mutant: str) -> None:
    """The seed that caught it before comes first: as long as the code draws as it did then, that is quick."""
    before = CAUGHT_BY.get(mutant, 0)
    violation = campaign.hunt(mutant, [before, *range(MOST)]).violation
    assert violation is not None
    assert "TypeError" not in violation  # a mutant that no longer fits the code is caught by nothing but itself


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
    seed = campaign.hunt("success-before-the-manifest", range(2, MOST)).seed
    assert main(["--seed", str(seed), "--mutant", "success-before-the-manifest"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"seed {seed}: ")
    assert told[-1].startswith("VIOLATION: run")
    assert "_SUCCESS over no manifest" in told[-1]
    assert told[-3].endswith("put data/_SUCCESS")


def test_many_seeds_are_summed_up_with_the_command_that_tells_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "30", "--first", "5", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.startswith("30 seeds, ")
    total = campaign.Campaign(violations={7: "what broke\nin detail"})
    assert "python -m batchinfer.testing.simulator --seed 7   # what broke\n" in f"{total}\n"
