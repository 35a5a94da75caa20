"""A job for the real program, on local disk or behind the faulty proxy, and what became of its rows."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.run.workplace import Workplace, files_below

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent / "site"
ROWS, SHARD, BATCH, INTERVAL, DELAY = 2400, 800, 32, 0.2, 0.02
BAD = {5, 1700}
STORING = 0.05
"""Seconds that storing a part takes, at most; the model goes on meanwhile. What storing a chunk takes is inside the interval."""
QUEUE = 8
"""Batches that may wait for the writing thread (worker.Worker)."""
FIRST_ROWS = 17
"""Rows that the model sees before the settings are pinned: 16 at once, and as one of them is bad, the first one alone."""
ISOLATION = 43
"""Rows that are seen again in a batch with a bad row: fours of 32, of 8, of 2, and the bad one alone for the second time."""


def pace(delay: float = DELAY) -> float:
    """Rows per second at most, of one worker."""
    return BATCH / delay


def one_kill(delay: float = DELAY) -> float:
    """Rows that a kill may cost one worker.

    What the model saw in a checkpoint interval, and while a part was stored; the batch before the interval's begin, and the one in
    hand, which may be the one with a bad row. A kill before the settings are pinned costs FIRST_ROWS, which are fewer.
    """
    return pace(delay) * (INTERVAL + STORING) + 2 * BATCH + ISOLATION


def store_away() -> float:
    """The same where the store is away: the model goes on until the queue of the writing thread is full.

    Then the writing thread has a batch in hand, and so has the device's.
    """
    return pace() * INTERVAL + BATCH + (QUEUE + 2) * BATCH + ISOLATION


ON_RAY = {"executor": "ray", "workers": 2, "cpus": 1}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Findings:
    """What a trial did to the rows; all but redo must be 0."""

    lost: int
    duplicated: int
    changed: int
    """Files under data/ and dead letters that differ from those of an undisturbed run, or are missing, or too many."""
    redo: int
    """Rows that the model saw more often than in an undisturbed run."""

    @property
    def sound(self) -> bool:
        return (self.lost, self.duplicated, self.changed) == (0, 0, 0)


class Place(Workplace):
    """One job whose model notes what it sees.

    Args:
        folder: of its own.
        source: folder or URL of the input; dead letters name it, so that equal results need the same one.
        url: where the output lies; by default below `folder`.
        storage: fsspec options by prefix.

    """

    def __init__(self, folder: Path, source: str, url: str = "", storage: dict[str, Any] | None = None) -> None:
        super().__init__(folder)
        self.source = source
        self.output = url or str(folder / "output")
        self.storage = storage or {}
        self.client: dict[str, Any] = {}
        """fsspec options for looking at the output, where the job's hold variables."""
        self.environment: dict[str, str] = {}
        self.more: dict[str, Any] = {}

    def write_job(self) -> None:
        """The job file, as the sections stand now."""
        base: dict[str, Any] = {
            "input": {"path": self.source},
            "model": {"options": {"delay": DELAY, "log": str(self.log)}},
            "batching": {"rows": BATCH, "tokens": 100, "window": 200, "shard": SHARD},
            "checkpoint": {"interval": INTERVAL},
            "errors": {"threshold": -1},
            "output": {"path": self.output},
            "storage": self.storage,
        }
        for name, section in self.more.items():
            base[name] = {**base.get(name, {}), **section}
        (self.folder / "job.yaml").write_text(json.dumps(self.fields(**base)))

    def launch(self, *options: str, chaos: dict[str, Any] | None = None, **popen: Any) -> subprocess.Popen[str]:
        """The program as a user starts it, in a session of its own; `chaos` as in site/sitecustomize.py."""
        self.write_job()
        environment = {**os.environ, **CREDENTIALS, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **self.environment}
        if chaos is not None:
            environment |= {"PYTHONPATH": f"{SITE}{os.pathsep}{ROOT}", "CHAOS": json.dumps({"role": "driver", **chaos})}
        return subprocess.Popen(
            [sys.executable, "-m", "batchinfer", "run", str(self.folder / "job.yaml"), "--progress", "none", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
            cwd=self.folder,
            **popen,
        )

    def point(self, verb: str, path: str, when: str, count: int = 1, kind: str = "SIGKILL") -> dict[str, Any]:
        """A point for `launch(chaos={"points": [...]})`; `struck` tells whether it was reached."""
        marker = str(self.folder / "struck")
        return {"verb": verb, "path": path, "when": when, "count": count, "signal": kind, "marker": marker}

    @property
    def struck(self) -> bool:
        return (self.folder / "struck").exists()

    def finish(self, *options: str, seconds: float = 120, **launch: Any) -> tuple[int, str]:
        """Start the program, wait for its end; exit code and what it said."""
        return ended(self.launch(*options, **launch), seconds)

    def names(self, below: str = "") -> list[str]:
        """The paths of everything on the output below a folder."""
        if "://" not in self.output:
            top = Path(self.output)
            return sorted(str(p.relative_to(top)) for p in files_below(top / below))
        top_url = self._fs._strip_protocol(self.output).rstrip("/")
        return sorted(path.removeprefix(f"{top_url}/") for path in self._fs.find(f"{top_url}/{below}"))

    @property
    def _fs(self) -> Any:
        options = self.client or next(iter(self.storage.values()), {})
        protocol = self.output.partition("://")[0]
        return fsspec.filesystem(protocol, **options, use_listings_cache=False, skip_instance_cache=True)

    def files(self, below: str) -> dict[str, bytes]:
        """Everything on the output below a folder, by its path."""
        if "://" not in self.output:
            return {name: (Path(self.output) / name).read_bytes() for name in self.names(below)}
        fs = self._fs
        return {name: fs.cat_file(f"{self.output.rstrip('/')}/{name}") for name in self.names(below)}

    def exclusive(self) -> str:
        """What the manifest says of other writers."""
        (manifest,) = (content for name, content in self.files("_batchinfer").items() if "/manifests/" in name)
        said: str = json.loads(manifest)["exclusive"]
        return said

    def chunks(self) -> list[str]:
        """Checkpoints of shards that aren't decided."""
        return [name for name in self.names("_batchinfer") if "/wip/" in name]

    def parts(self) -> list[str]:
        return [name for name in self.names("data") if name.endswith(".parquet")]

    def compare(self, reference: Reference) -> Findings:
        """What became of the rows, beside an undisturbed run."""
        data, letters = self.files("data"), self.files("_dead_letter")
        parts = {name: content for name, content in data.items() if name.endswith(".parquet")}
        seen: Counter[int] = Counter()
        for content in parts.values():
            seen.update(pq.read_table(io.BytesIO(content), columns=["id"])["id"].to_pylist())
        for content in letters.values():
            seen.update(pq.read_table(io.BytesIO(content), columns=["row"])["row"].to_pylist())
        mine, theirs = digests([*parts.values(), *letters.values()]), reference.digests
        stray = len(data) - len(parts) - ("data/_SUCCESS" in data)
        return Findings(
            lost=sum(1 for n in range(ROWS) if n not in seen),
            duplicated=sum(count - 1 for count in seen.values()) + sum(1 for n in seen if not 0 <= n < ROWS),
            changed=sum(((mine - theirs) + (theirs - mine)).values()) + stray + ("data/_SUCCESS" not in data),
            redo=self.seen() - reference.seen,
        )


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: digests of parts and dead letters (their names hold the job's random number), rows seen, its length."""

    digests: Counter[str]
    seen: int
    seconds: float


def digests(contents: list[bytes]) -> Counter[str]:
    return Counter(hashlib.sha256(content).hexdigest() for content in contents)


def source_table() -> bytes:
    """The input of all places, as a Parquet file."""
    x = [None if n in BAD else n for n in range(ROWS)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({"id": pa.array(range(ROWS), pa.int64()), "x": pa.array(x, pa.int64())}), sink, row_group_size=200
    )
    return sink.getvalue().to_pybytes()


def undisturbed(place: Place) -> Reference:
    """Run a job to which nothing happens."""
    began = time.monotonic()
    code, said = place.finish()
    seconds = time.monotonic() - began
    assert code == 0, said
    files = place.files("data") | place.files("_dead_letter")
    return Reference(digests([c for n, c in files.items() if n.endswith(".parquet")]), place.seen(), seconds)


def ended(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str]:
    """Exit code and standard error of a program, which is ended when it takes longer."""
    try:
        said = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        kill_all(process)
        said = process.communicate()[1]
        raise AssertionError(f"still running after {seconds} s: {said}") from None
    return process.returncode, said


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()[1]}"
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_all(process: subprocess.Popen[str]) -> None:
    """The program with everything that it has started, at once."""
    for one in [*descendants(process), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
    process.wait()


def actors(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The Ray workers of a program that hold a model."""
    found = []
    for one in descendants(process):
        try:
            if re.match(r"ray::_?Actor\b", " ".join(one.cmdline())):
                found.append(one)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found
