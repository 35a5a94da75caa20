"""A job with rows that kill, in every way there is, and a program that runs it until it ends."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer import open_run

MODEL = '''
import json, os, resource, signal, sys, time

UNBOUNDED = resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


class Model:
    """Twice x, after noting what it was called with; dies of a row as its kind says."""

    def __init__(self, log, runner):
        self.log, self.runner = log, runner

    def __call__(self, batch):
        with open(self.log, "a") as log:
            log.write(json.dumps([int(n) for n in batch["x"]]) + "\\n")
        y = [2.0 * n for n in batch["x"]]
        for at, kind in enumerate(batch["kind"]):
            if kind:
                y[at] = getattr(self, kind)()
        return {"y": y}

    def error(self):
        raise ValueError("a bad row")

    def nan(self):
        return float("nan")

    def sysexit(self):
        sys.exit(3)

    def abort(self):
        os.abort()

    def segfault(self):
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)

    def exits(self):
        os._exit(7)

    def hangs(self):
        time.sleep(3600)

    def hog(self):
        """What the kernel does to a process that takes all memory there is; bounded, it is refused."""
        if UNBOUNDED:
            os.kill(os.getpid(), signal.SIGKILL)
        import numpy

        taken = []
        try:
            while True:
                taken.append(numpy.zeros(1 << 30, numpy.uint8))  # promised, and never touched
        except MemoryError:
            raise MemoryError("all is taken") from None

    def takes_all(self):
        """The runner is taken as well."""
        if UNBOUNDED:
            os.kill(int(open(self.runner).read()), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError
'''

SEEN = {
    "error": ("exception", "ValueError", None),
    "nan": ("invalid_output", "NotFinite", None),
    "sysexit": ("exception", "SystemExit", None),
    "abort": ("process_death", "ProcessDied", "SIGABRT"),
    "segfault": ("process_death", "ProcessDied", "SIGSEGV"),
    "exits": ("process_death", "ProcessDied", "exit 7"),
    "hangs": ("timeout", "Timeout", None),
    "hog": ("out_of_memory", "MemoryError", None),
    "takes_all": ("out_of_memory", "MemoryError", None),
}
"""What the dead letters say of each kind: class, type, signal."""
BATCH = 8


class Poisoned:
    """The job below `folder`: `rows` rows of which some are of a kind; each has twice its number for an answer."""

    def __init__(self, folder: Path, rows: int, kinds: dict[int, str], **sections: Any) -> None:
        self.folder, self.rows, self.kinds = folder, rows, kinds
        (folder / "dying.py").write_text(MODEL)
        table = pa.table({"x": range(rows), "kind": [kinds.get(n, "") for n in range(rows)]})
        pq.write_table(table, folder / "in.parquet")
        job = {
            "version": 1,
            "name": "poisoned",
            "code": [str(folder)],
            "input": {"path": str(folder / "in.parquet"), "key": "x"},
            "model": {
                "engine": "python",
                "uri": "dying:Model",
                "inputs": {"x": "x", "kind": "kind"},
                "outputs": {"y": "y"},
                "options": {"log": str(folder / "log"), "runner": str(folder / "runner")},
            },
            "batching": {"rows": BATCH, "window": 4 * BATCH, "shard": 8 * BATCH},
            "checkpoint": {"interval": "1ms"},
            "errors": {"threshold": -1},
            "output": {"path": str(folder / "out")},
            **sections,
        }
        (folder / "job.yaml").write_text(json.dumps(job))

    def run(self, seconds: float = 120) -> tuple[int, str]:
        """The program once: its exit code, negative for a signal, and what it says."""
        command = [sys.executable, "-m", "batchinfer", "run", str(self.folder / "job.yaml")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        (self.folder / "runner").write_text(str(process.pid))
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, said

    def run_to_the_end(self, runs: int) -> list[int]:
        """The exit codes of the program, run until it ends by itself with a verdict."""
        codes: list[int] = []
        said = ""
        while not codes or codes[-1] != 0:
            assert len(codes) < runs, f"{codes}: {said}"
            code, said = self.run()
            codes.append(code)
        return codes

    def calls_on(self, row: int) -> int:
        """Calls of the model that this row was in."""
        return sum(row in json.loads(line) for line in (self.folder / "log").read_text().splitlines())

    def check(self) -> None:
        """Exactly the poisoned rows are dead, as their kinds say, and all others have their answer, once."""
        run = open_run(self.folder / "out")
        dead = run.errors().to_dicts()
        told = {d["row"]: (d["error_class"], d["error_type"], d["exit_signal"]) for d in dead}
        assert told == {row: SEEN[kind] for row, kind in self.kinds.items()}
        assert all(d["attempts"] == (1 if d["error_class"] == "invalid_output" else 2) for d in dead)
        answers = pa.concat_tables(pq.read_table(p) for p in sorted((self.folder / "out/data").glob("*.parquet")))
        alive = [n for n in range(self.rows) if n not in self.kinds]
        assert answers["x"].to_pylist() == alive
        assert answers["y"].to_pylist() == [2.0 * n for n in alive]
        assert (run.counts.succeeded, run.counts.dead, run.exit_code) == (len(alive), len(self.kinds), 0)

    def check_calls(self) -> None:
        """A row that kills was in as many calls as promised at most: two deaths outside quarantine, and what finds it there."""
        bound = 2 * math.ceil(math.log2(BATCH)) + 4
        seen = Counter({row: self.calls_on(row) for row in self.kinds})
        assert max(seen.values(), default=0) <= bound, seen
