"""Whole processes one after the other, nothing stopped: from the command to the finished files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.models import ROOT
from tests.benchmarks.programs import parts
from tests.benchmarks.turns import family_mb, last_line

_LOOK_SECONDS = 1.0


def run(programs: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Run each command line to its end, in the order given; the figures of each.

    A program of `tests.benchmarks.programs` says its own; of any other, the last argument is a job file.

    Raises CalledProcessError for one that fails.
    """
    return {name: _timed(command) for name, command in programs.items()}


def _timed(command: list[str]) -> dict[str, Any]:
    import pyarrow.parquet as pq

    start, peak = time.time(), 0.0
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while True:
        try:
            output, _ = process.communicate(timeout=_LOOK_SECONDS)
            break
        except subprocess.TimeoutExpired:
            peak = max(peak, family_mb(process.pid))
    seconds = time.time() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    result: dict[str, Any] = {"end_to_end_s": round(seconds, 3), "peak_mb": round(peak)}
    if command[0] == "batchinfer":
        written = list(parts(Path(json.loads(Path(command[-1]).read_text())["output"]["path"])))
        result["rows"] = sum(pq.read_metadata(p).num_rows for p in written)
        result["output_bytes"] = sum(p.stat().st_size for p in written)
    else:
        told = last_line(output)
        result |= {name: told[name] for name in ("rows", "output_bytes", "steady_cpu_s")}
        result["first_s"] = round(told["first"] - start, 3)
        result["steady_s"] = round(told["written"] - told["ready"], 3)
        result["peak_mb"] = max(result["peak_mb"], told["peak_mb"])
    print(json.dumps({"program": command, **result}), file=sys.stderr, flush=True)
    return result
