"""The command line, in this process and as the real program in one of its own, and tiny jobs for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.terminal import batchinfer

ROOT = Path(__file__).parents[2]
VARIABLES = {"HF_HUB_OFFLINE": "1", "COLUMNS": "80", "TERM": "xterm-256color"}

MODELS = """
import time


class Double:
    def __init__(self, seconds=0.0, bad=()):
        self.seconds, self.bad = seconds, set(bad)

    def __call__(self, batch):
        time.sleep(self.seconds)
        for x in batch["x"]:
            if int(x) in self.bad:
                raise ValueError("x is not to be doubled")
        return {"y": batch["x"] * 2}


class Talker:
    def __call__(self, batch):
        print("the model says hello")
        return {"y": batch["x"] * 2}
"""

JOB = """
version: 1
name: doubling
code: [code]
input: {{path: input.parquet, key: id}}
model:
  engine: python
  uri: models:{model}
  inputs: {{x: x}}
  outputs: {{y: {{column: y, type: int64}}}}
  options: {options}
batching: {{rows: {batch}, window: {window}, shard: {shard}}}
checkpoint: {{interval: 200ms}}
output: {{path: out}}
"""


@dataclass
class Workplace:
    """A folder with a job, its input and its model."""

    folder: Path
    command: tuple[str, ...] = (sys.executable, "-m", "batchinfer")

    @staticmethod
    def environment() -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **VARIABLES}

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code], cwd=self.folder, env=self.environment(), capture_output=True, text=True
        )

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def write_job(
        self,
        *,
        rows: int = 100,
        model: str = "Double",
        batch: int = 10,
        window: int = 50,
        shard: int = 50,
        **options: Any,
    ) -> None:
        (self.folder / "code").mkdir(exist_ok=True)
        (self.folder / "code" / "models.py").write_text(MODELS)
        table = pa.table({"id": [f"row-{n}" for n in range(rows)], "x": pa.array(range(rows), pa.int64())})
        pq.write_table(table, self.folder / "input.parquet")
        text = JOB.format(model=model, options=json.dumps(options), batch=batch, window=window, shard=shard)
        (self.folder / "job.yaml").write_text(text)

    def batchinfer(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line, called in this process."""
        return batchinfer(*arguments, folder=self.folder, environment=VARIABLES)

    def program(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The program, in a process of its own."""
        return subprocess.run(
            [*self.command, *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )


def wait_for(stream: IO[str], words: str) -> None:
    """Return once a program has said something."""
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"the program ended without saying {words!r}")


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)
