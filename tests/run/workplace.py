"""A folder with a small job: Parquet input, a class that counts what it sees, and a way to run it in this process or another."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer import Job, Run, open_run
from batchinfer.run.events import Event

MODEL = '''
import time


class Double:
    """Twice x; raises for a null; notes how many rows each call saw."""

    def __init__(self, delay: float = 0.0, log: str | None = None) -> None:
        self.delay, self.log = delay, log

    def __call__(self, batch):
        time.sleep(self.delay)
        if self.log:
            with open(self.log, "a") as log:
                log.write(f"{len(batch['x'])}\\n")
        for value in batch["x"]:
            if value is None:
                raise TypeError("x is null")
        return {"y": [2.0 * float(value) for value in batch["x"]]}
'''

PROGRAM = """
import json, sys
from batchinfer import Job, open_run
from batchinfer.errors import BatchinferError

try:
    job = Job(**json.loads(sys.argv[2]))
    run = job.run() if sys.argv[1] == "run" else open_run(job.spec.output.path).retry(job=job)
except BatchinferError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
sys.exit(run.exit_code)
"""


class Workplace:
    """One job below `folder`; sections given to a call override the job's own, key by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "code").mkdir()
        (folder / "code" / "doubling.py").write_text(MODEL)

    def write(self, rows: int, bad: set[int] | None = None, name: str = "a", group: int = 1000, start: int = 0) -> None:
        """An input file with the columns id and x; x is null in the rows that are bad."""
        (self.folder / "input").mkdir(exist_ok=True)
        x = [None if n in (bad or set()) else n + start for n in range(rows)]
        table = pa.table({"id": pa.array(range(start, start + rows), pa.int64()), "x": pa.array(x, pa.int64())})
        pq.write_table(table, self.folder / "input" / f"{name}.parquet", row_group_size=group)

    def fields(self, **sections: Any) -> dict[str, Any]:
        """The job's sections."""
        fields: dict[str, Any] = {
            "version": 1,
            "name": "doubling",
            "code": [str(self.folder / "code")],
            "input": {"path": str(self.folder / "input"), "key": "id"},
            "model": {
                "engine": "python",
                "uri": "doubling:Double",
                "inputs": {"x": "x"},
                "outputs": {"y": "y"},
                "options": {},
            },
            "batching": {"rows": 32, "tokens": 100, "window": 500, "shard": 2000},
            "resources": {"executor": "inline"},
            "output": {"path": str(self.folder / "output")},
            "report": {"html": False},  # drawing takes longer than most of these jobs
        }
        if "steps" in sections:
            del fields["model"]
        for key, value in sections.items():
            fields[key] = {**fields.get(key, {}), **value} if isinstance(value, dict) else value
        return fields

    def run(self, *, restart: bool = False, events: list[Event] | None = None, **sections: Any) -> Run:
        """Run in this process."""
        listener = None if events is None else events.append
        return Job(**self.fields(**sections)).run(restart=restart, listener=listener)

    def retry(self, *, only: Sequence[str] = (), events: list[Event] | None = None, **sections: Any) -> Run:
        """Retry in this process, with the job as it is now."""
        listener = None if events is None else events.append
        job = Job(**self.fields(**sections))
        return open_run(job.spec.output.path).retry(job=job, errors=only, listener=listener)

    def edit(self, old: str, new: str) -> None:
        """Change the model's source."""
        source = self.folder / "code" / "doubling.py"
        text = source.read_text()
        assert old in text
        source.write_text(text.replace(old, new))

    def mend(self) -> None:
        """Make the model answer -1 to a null."""
        self.edit('raise TypeError("x is null")', "pass")
        self.edit("2.0 * float(value)", "-1.0 if value is None else 2.0 * float(value)")

    def start(self, verb: str = "run", **sections: Any) -> subprocess.Popen[str]:
        """Run or retry in another process."""
        import json

        command = [sys.executable, "-c", PROGRAM, verb, json.dumps(self.fields(**sections))]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def opened(self, output: str = "output") -> Run:
        """What stands on an output."""
        return open_run(self.folder / output)

    def digests(self, output: str = "output") -> list[str]:
        """SHA-256 of every part in order: equal for equal results, whatever the job's random name."""
        return [
            hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted((self.folder / output / "data").glob("*.parquet"))
        ]

    def files(self, output: str = "output") -> dict[str, bytes]:
        """What stands on an output, but for the signs of life of runners."""
        root = self.folder / output
        return {name: (root / name).read_bytes() for name in self.names(output)}

    def names(self, output: str = "output") -> list[str]:
        """The files that stand on an output, also while a run adds and removes some."""
        root = self.folder / output
        passing = ("epochs", "heartbeats", "closed", "probes", "scratch")
        return [str(p.relative_to(root)) for p in sorted(files_below(root)) if p.parent.name not in passing]

    def dead(self, output: str = "output") -> list[dict[str, Any]]:
        """The dead letters as rows."""
        return self.opened(output).errors().to_dicts()

    @property
    def log(self) -> Path:
        """Where the model may note what it saw."""
        return self.folder / "log.txt"

    def seen(self) -> int:
        """Rows that the model saw over all processes that were given the log."""
        return sum(int(line) for line in self.log.read_text().split()) if self.log.exists() else 0

    def newly_seen(self) -> int:
        """Rows that it noted since this was asked last."""
        rows = self.seen()
        self.log.unlink(missing_ok=True)
        return rows


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 60) -> None:
    """Return once something has happened, which must be before the program's end."""
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def chunks(workplace: Workplace) -> list[Path]:
    """Checkpoints that stand on the output."""
    return [path for path in files_below(workplace.folder / "output/_batchinfer") if path.suffix == ".arrow"]


def files_below(folder: Path) -> list[Path]:
    """Also while some come and go: not by rglob, which raises where a folder goes while it is read."""
    return [Path(inner, name) for inner, _, names in os.walk(folder) for name in names]
