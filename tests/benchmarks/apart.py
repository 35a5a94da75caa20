"""`python -m tests.benchmarks.apart [--rows N] [--rounds N]`: one worker or two that take 20 ms a row to prepare, and one model actor: JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MODEL = """
import time


class Model:
    @staticmethod
    def prepare(batch):
        time.sleep(0.02 * len(batch["x"]))
        return batch

    def __call__(self, batch):
        return {"y": batch["x"] * 2}
"""
PROGRAM = """
import json, sys, time
from batchinfer import Job
from batchinfer.run.events import Finished, Settled

at = {}
run = Job(**json.loads(sys.argv[1])).run(listener=lambda event: at.__setitem__(type(event), time.perf_counter()))
assert run.exit_code == 0
print(json.dumps({"steady_s": at[Finished] - at[Settled], "pool": run.record["pools"]["model"], "wait_s": run.record["usage"]["seconds"]["wait"]}))
"""


def once(folder: Path, rows: int, workers: int, number: int) -> dict[str, float]:
    """Seconds from the loaded model to the end, and who waited for whom."""
    job = {
        "version": 1,
        "name": "apart",
        "code": [str(folder)],
        "input": {"path": str(folder / "in.parquet")},
        "model": {
            "engine": "python",
            "uri": "model_apart:Model",
            "inputs": {"x": "x"},
            "outputs": {"y": {"column": "y", "type": "int64"}},
            "workers": 1,
            "cpus": 1,
        },
        "batching": {"rows": 10, "window": 20, "shard": 60},
        "resources": {"workers": workers, "cpus": 1},
        "output": {"path": str(folder / f"out-{workers}-{number}")},
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROGRAM, json.dumps(job)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Both, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1800)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model_apart.py").write_text(MODEL)
        pq.write_table(pa.table({"x": range(asked.rows)}), folder / "in.parquet")
        pairs = [tuple(once(folder, asked.rows, workers, n) for workers in (1, 2)) for n in range(asked.rounds)]
    ratios = [one["steady_s"] / two["steady_s"] for one, two in pairs]
    print(json.dumps({"rows": asked.rows, "median_ratio": statistics.median(ratios), "ratios": ratios, "runs": pairs}))


if __name__ == "__main__":
    main()
