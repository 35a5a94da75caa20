"""Programs side by side in short turns: what the machine does in a minute (other guests of the host, heat) meets all of them alike.

Each program is a process with children; all but one stand still (SIGSTOP). Wall-clock seconds count only while a program may run.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import psutil

TURN_SECONDS = 2.0


@dataclass
class Contender:
    """A program, and when it was allowed to run (seconds since the epoch)."""

    process: subprocess.Popen[str]
    turns: list[tuple[float, float]] = field(default_factory=list)
    peak_mb: float = 0.0
    """Of all its processes together, shared pages once, as seen at the ends of its turns."""

    def turn(self) -> None:
        """Let it run for a while, or to its end."""
        start = time.time()
        self._signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(TURN_SECONDS)
        self._signal(signal.SIGSTOP)
        self.turns.append((start, time.time()))
        if self.process.poll() is None:  # it stands still: looking at it costs it nothing
            self.peak_mb = max(self.peak_mb, family_mb(self.process.pid))

    def kill(self) -> None:
        """End it and its children, where it hasn't ended."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is not None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            family = [own, *own.children(recursive=True)]
            # Parents stop first and go on last, so that none of them sees a child that stands still.
            for member in family if number is not signal.SIGCONT else reversed(family):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.send_signal(number)

    def seconds(self, begin: float, end: float) -> float:
        """Of the time between two moments, what it was allowed to run."""
        return sum(max(0.0, min(end, stop) - max(begin, start)) for start, stop in self.turns)


def family_mb(pid: int) -> float:
    """Memory of a process and its children in MiB, shared pages counted once."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        own = psutil.Process(pid)
        for member in [own, *own.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = member.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
    return total / 2**20


def run(programs: dict[str, list[str]], cwd: str) -> dict[str, dict[str, Any]]:
    """Run all programs (arguments of `tests.benchmarks.programs`) in turns; the result line of each, in seconds of its turns.

    Raises CalledProcessError for one that fails.
    """
    contenders: dict[str, Contender] = {}
    try:
        for name, arguments in programs.items():
            command = [sys.executable, "-m", "tests.benchmarks.programs", *arguments]
            process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True)
            process.send_signal(signal.SIGSTOP)
            contenders[name] = Contender(process)
        while left := [c for c in contenders.values() if c.process.poll() is None]:
            for contender in left:
                contender.turn()
                if contender.process.returncode:  # the round is lost: the others needn't go on for minutes
                    raise subprocess.CalledProcessError(contender.process.returncode, contender.process.args)
        return {name: _result(contender) for name, contender in contenders.items()}
    finally:
        for contender in contenders.values():
            contender.kill()  # else they'd stand still for ever


def _result(contender: Contender) -> dict[str, Any]:
    output, _ = contender.process.communicate()
    result = last_line(output)
    began, ready, first, written, ended = (result.pop(n) for n in ("began", "ready", "first", "written", "ended"))
    for name in ("infer_s", "wait_s"):  # they go on while a program stands still
        result.pop(name, None)
    result["steady_s"] = round(contender.seconds(ready, written), 3)
    result["first_s"] = round(contender.seconds(began, first), 3)
    result["end_to_end_s"] = round(contender.seconds(began, ended), 3)
    result["peak_mb"] = round(max(result["peak_mb"], contender.peak_mb))
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def last_line(output: str) -> dict[str, Any]:
    """The result line of a program: Ray may print after it."""
    line = next(line for line in reversed(output.splitlines()) if line.startswith("{"))
    result: dict[str, Any] = json.loads(line)
    return result
