"""`jobs/pages/cost.md`: its commands do what it says, and its tables have what there is."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import open_run
from batchinfer.cli import measured
from batchinfer.measure.canary import Canary
from batchinfer.measure.intervals import Interval

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "jobs/pages/cost.md").read_text()
MODEL = """
import time


class Double:
    def __call__(self, batch):
        time.sleep(0.05)
        return {"y": batch["x"] * 2}
"""
JOB = """
version: 1
name: doubling
code: [code]
input: {path: input.parquet, key: id}
model: {engine: python, uri: "doubling:Double", inputs: {x: x}, outputs: {y: y}}
batching: {rows: 10}
output: {path: out}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a job that has the sections of the page, and a program called batchinfer."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "doubling.py").write_text(MODEL)
    (section,) = blocks("yaml")
    inline = section.replace("resources:\n", "resources:\n  executor: inline\n")
    (tmp_path / "job.yaml").write_text(JOB + inline)
    pq.write_table(pa.table({"id": range(1000), "x": range(1000)}), tmp_path / "input.parquet")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "batchinfer"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m batchinfer "$@"\n')
    program.chmod(0o755)
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "80"}


def test_the_commands_of_the_page_end_with_the_codes_that_it_tells(place: Path) -> None:
    for line in "".join(blocks("sh")).splitlines():
        command, _, said = line.partition("#")
        done = subprocess.run(["sh", "-c", command], cwd=place, env=environment(place), capture_output=True, text=True)
        code = int(said.removeprefix(" exit code ")) if said else 0
        assert done.returncode == code, (line, done.stderr)
        assert ("run.max_cost of 0.001 is spent" in done.stderr) == (code == 75), line
    run = open_run(place / "out")
    assert (run.exit_code, run.counts.succeeded) == (0, 1000)
    keys = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")))
    assert len(keys) == 5
    assert all(run.record[key] > 0 for key in keys)


def test_the_program_of_the_page_measures_the_job(place: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment(place), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"Interval\(value=.*, low=.*, high=.*\) None\n$", done.stdout)


def test_the_lines_of_the_page_are_those_of_the_program() -> None:
    (shown,) = blocks("text")
    pace = Interval(0.02, 0.019, 0.021)
    seen = [Canary(name, 1, 1.0, 448, 7, 64, 8.0, 8.0, pace, 10**9, 0) for name in ("inline", "ray")]
    told = measured.lines(measured.Measurement(2340, 2.5, tuple(seen), None, 0, ()))
    assert [label for label, _ in told] == [line[:16].strip() for line in shown.splitlines() if line[2] != " "]
    words = " ".join(shown.split())
    assert told[0][1] in words
    assert told[-1][1] in words
    assert json.loads(json.dumps(seen[0].to_json(2340, 2.5)))["rows"] == 448
