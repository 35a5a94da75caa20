"""A job with rows that kill, in every way there is, and a program that runs it until it ends."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer import open_run

MODEL = '''
import ctypes, json, os, resource, signal, sys, time

from batchinfer.engines.python import PythonEngine

UNBOUNDED = resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
prepare = PythonEngine.prepare


class Model:
    """Twice x, after noting what it was called with; dies of a row as its kind says."""

    def __init__(self, log, runner, stillborn=False):
        self.log, self.runner = log, runner
        if stillborn:
            self.segfault()

    def __call__(self, batch):
        note(self.log, batch["x"])
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

    def holds(self):
        """Python itself, so that no other thread runs."""
        time.sleep(1)
        ctypes.PyDLL(None).sleep(3600)

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


def note(log, rows):
    with open(log, "a") as file:
        file.write(json.dumps([int(n) for n in rows]) + "\\n")


def tokenize(engine, rows):
    """Where an engine of another kind would call its tokenizer: some rows end that too."""
    kinds = rows["kind"].to_pylist()
    if any(kind in ("kills_tokenizer", "hangs_tokenizer") for kind in kinds):
        note(engine._step.options["log"] + ".tokenizer", rows["x"].to_pylist())
        if "kills_tokenizer" in kinds:
            os.abort()
        time.sleep(3600)
    return prepare(engine, rows)


PythonEngine.prepare = tokenize
'''

SEEN = {
    "error": ("exception", "ValueError", None),
    "nan": ("invalid_output", "NotFinite", None),
    "sysexit": ("exception", "SystemExit", None),
    "abort": ("process_death", "ProcessDied", "SIGABRT"),
    "segfault": ("process_death", "ProcessDied", "SIGSEGV"),
    "exits": ("process_death", "ProcessDied", "exit 7"),
    "hangs": ("timeout", "Timeout", None),
    "holds": ("timeout", "Timeout", None),
    "kills_tokenizer": ("process_death", "ProcessDied", "SIGABRT"),
    "hangs_tokenizer": ("timeout", "Timeout", None),
    "hog": ("out_of_memory", "MemoryError", None),
    "takes_all": ("out_of_memory", "MemoryError", None),
}
"""What the dead letters say of each kind: class, type, signal."""
BATCH = 8
"""One by one, as many calls would find a row as are allowed at most, and two more."""
WINDOW = 2 * BATCH
SHARD = 2 * WINDOW
ROWS = 2 * SHARD


class Poisoned:
    """The job below `folder`: rows of which some are of a kind; each has twice its number for an answer.

    Its output has a declared type, so that nothing is measured and every call of the model is one of the run.
    """

    def __init__(
        self,
        folder: Path,
        kinds: dict[int, str],
        options: dict[str, Any] | None = None,
        **sections: Any,
    ) -> None:
        self.folder, self.kinds = folder, kinds
        (folder / "dying.py").write_text(MODEL)
        table = pa.table({"x": range(ROWS), "kind": [kinds.get(n, "") for n in range(ROWS)]})
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
                "outputs": {"y": {"column": "y", "type": "float64"}},
                "options": {"log": str(folder / "log"), "runner": str(folder / "runner"), **(options or {})},
            },
            "batching": {"rows": BATCH, "window": WINDOW, "shard": SHARD},
            "checkpoint": {"interval": "1ms"},
            "errors": {"threshold": -1},
            "output": {"path": str(folder / "out")},
            **sections,
        }
        (folder / "job.yaml").write_text(json.dumps(job))

    def run(self, seconds: float = 300) -> tuple[int, str]:
        """The program once: its exit code, negative for a signal, and what it says.

        Five rows that hang cost four calls each, and each of these its timeout, a process and what its first call is given.
        """
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

    def calls(self, log: str = "log") -> list[list[int]]:
        """The rows of each call of the model, in all processes that called it."""
        file = self.folder / log
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def check(self, exit_code: int = 0) -> None:
        """Exactly the poisoned rows are dead, as their kinds say, and all others have their answer, once."""
        run = open_run(self.folder / "out")
        dead = run.errors().to_dicts()
        told = {d["row"]: (d["error_class"], d["error_type"], d["exit_signal"]) for d in dead}
        assert told == {row: SEEN[kind] for row, kind in self.kinds.items()}
        assert all(d["attempts"] == (1 if d["error_class"] == "invalid_output" else 2) for d in dead)
        answers = pa.concat_tables(pq.read_table(p) for p in sorted((self.folder / "out/data").glob("*.parquet")))
        alive = [n for n in range(ROWS) if n not in self.kinds]
        assert answers["x"].to_pylist() == alive
        assert answers["y"].to_pylist() == [2.0 * n for n in alive]
        assert (run.counts.succeeded, run.counts.dead, run.exit_code) == (len(alive), len(self.kinds), exit_code)

    def check_calls(self, deaths: int) -> None:
        """What found the rows: the calls that isolate one are as many as promised, at most.

        A batch may further be seen whole as often as the program or a worker died, and once in quarantine.
        """
        calls = self.calls()
        for batch in self._batches():
            kinds = [self.kinds[n] for n in batch & set(self.kinds)]
            bad = len(kinds) - kinds.count("nan")  # what answers needs no further call
            whole = [call for call in calls if batch == set(call)]
            parts = [call for call in calls if batch > set(call)]
            assert len(whole) <= 1 + deaths, (kinds, calls)
            assert len(parts) <= bad * _further(len(batch)), (kinds, parts)
        for row in set(self.kinds) - set(self._for_the_model()):
            tokenized = [call for call in self.calls("log.tokenizer") if row in call]
            assert len(tokenized) <= 1 + deaths + _further(WINDOW), (row, tokenized)

    def _for_the_model(self) -> list[int]:
        """The rows that no tokenizer dies of."""
        return [n for n in range(ROWS) if not self.kinds.get(n, "").endswith("tokenizer")]

    def _batches(self) -> Iterator[set[int]]:
        """What the model is called with where nothing is isolated."""
        for _, window in itertools.groupby(self._for_the_model(), lambda n: n // WINDOW):
            while batch := set(itertools.islice(window, BATCH)):
                yield batch


def _further(rows: int) -> int:
    """Calls that may be needed to find one bad row in a batch, after the one that failed."""
    return 2 * math.ceil(math.log2(rows)) + 1
