"""The page about comparing outputs: its commands run as they stand there, and do what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.test_examples import jobs
from tests.terminal import batchinfer

__all__ = ["jobs"]

PAGE = (Path(__file__).parents[2] / "jobs/pages/compare.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_page_is_true(jobs: Path, tmp_path: Path) -> None:
    shadow, models, drift = blocks("sh")
    for block in (shadow, models):
        for line in block.splitlines():
            words = shlex.split(line)
            few = ["--set", "input.limit=40"] if "quickstart" in line else []
            if words[0] == "python":
                subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True, capture_output=True)
                continue
            quiet = ["--progress", "none"] if words[1] == "run" else []
            done = batchinfer(*words[1:], *few, *quiet, folder=tmp_path)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert "Cohen's kappa 0.9" in done.stdout
    assert "digit: 8 → " in done.stdout  # what --show shows
    (program,) = blocks("python")
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\nassert made.rows.both == 1437\nassert made.exit_code == 3\nprint(made)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Comparison(1,437 rows in both, agreement: digit 94." in ended.stdout
    for line in drift.splitlines():
        done = batchinfer(*shlex.split(line)[1:], folder=tmp_path)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert (tmp_path / "reference.json").stat().st_size < 10_000
    assert "digit" in done.stdout
