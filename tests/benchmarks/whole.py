"""Whole processes one after the other, nothing stopped: from the command to the finished files."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.models import ROOT
from tests.benchmarks.programs import parts, written
from tests.benchmarks.turns import family_mb, last_line

_LOOK_SECONDS = 1.0


def run(programs: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Run each command line to its end, in the order given; the figures of each.

    A program of `tests.benchmarks.programs` says its own; of any other, the last argument is a job file. When its first batch was
    computed it doesn't say: its `first_s` is when the first part was stored, which is later.

    Raises CalledProcessError for one that fails.
    """
    return {name: _timed(command) for name, command in programs.items()}


def _timed(command: list[str]) -> dict[str, Any]:
    start, peak, before = time.time(), 0.0, _children_cpu()
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
        out = Path(json.loads(Path(command[-1]).read_text())["output"]["path"])
        result |= written(out)
        result["cpu_s"] = round(_children_cpu() - before, 2)
        result["first_s"] = round(min(part.stat().st_mtime for part in parts(out)) - start, 3)
    else:
        told = last_line(output)
        result |= {name: told[name] for name in ("rows", "row_groups", "output_bytes", "cpu_s", "steady_cpu_s")}
        result["first_s"] = round(told["first"] - start, 3)
        result["steady_s"] = round(told["written"] - told["ready"], 3)
        result["peak_mb"] = max(result["peak_mb"], told["peak_mb"])
    print(json.dumps({"program": command, **result}), file=sys.stderr, flush=True)
    return result


def _children_cpu() -> float:
    """CPU seconds of all processes that this one started and waited for, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
