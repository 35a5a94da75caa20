"""Who runs: one record for each start of a runner, kept alive by heartbeats.

Only one runner should work on an output, to save work; that is all this is for. No result depends on it: a runner that wakes
up late can only lose the creation of a part.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from batchinfer.errors import BatchinferError, LockedError
from batchinfer.ledger import records
from batchinfer.storage.paths import JobPaths, number_of
from batchinfer.storage.store import Store

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 30.0


def identity() -> dict[str, Any]:
    """Who this process is: host, boot, process and its start, versions of what runs."""
    return {
        "host": platform.node(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("batchinfer", "pyarrow", "polars", "torch", "ray")},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _process_start(pid: int) -> str | None:
    """Clock ticks from boot to the process's start (field 22 of /proc/<pid>/stat); None where it is gone or unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _is_of_here(record: dict[str, Any]) -> bool:
    """Whether the recorded process ran in this boot of this machine, so that it can be looked for."""
    boot = _boot_id()
    known = boot is not None and record.get("process_start") is not None
    return known and record.get("boot") == boot and record.get("host") == platform.node()


def _is_dead_here(record: dict[str, Any]) -> bool:
    """Whether the recorded process ran here and is gone: no need to wait for its heartbeat."""
    return _is_of_here(record) and _process_start(int(record["pid"])) != record["process_start"]


def _is_alive_here(record: dict[str, Any]) -> bool:
    return _is_of_here(record) and _process_start(int(record["pid"])) == record["process_start"]


@dataclass(frozen=True)
class Standing:
    """What can be said of the newest epoch."""

    number: int
    state: str
    """`closed`, `dead`; `running` where the process is seen on this machine; else `unknown` until its heartbeat was watched."""
    owner: str
    sign: bytes
    """The newest sign of life, byte by byte."""
    at: str | None = None
    """When that was, by the runner's clock, in ISO 8601; for people."""

    def age(self, now: datetime) -> float | None:
        """Seconds since the newest sign of life, as far as the two clocks agree."""
        return None if self.at is None else max(0.0, (now - datetime.fromisoformat(self.at)).total_seconds())


def newest(store: Store, job: JobPaths) -> Standing | None:
    """The newest epoch of the job; None before the first."""
    entries = store.list(f"{job.folder}/epochs")
    if not entries:
        return None
    number = max(number_of(e.path) for e in entries)
    record = records.read(store, job.epoch(number))
    owner = f"process {record.get('pid')} on {record.get('host')}"
    if records.find(store, job.closed(number)) is not None:
        return Standing(number, "closed", owner, b"")
    if _is_dead_here(record):
        return Standing(number, "dead", owner, b"")
    sign = _sign(store, job, number)
    at = _time_in(sign) or record.get("at")
    return Standing(number, "running" if _is_alive_here(record) else "unknown", owner, sign, at)


def _sign(store: Store, job: JobPaths, number: int) -> bytes:
    try:
        return store.read(job.heartbeat(number))
    except FileNotFoundError:
        return b""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _time_in(heartbeat: bytes) -> str | None:
    with contextlib.suppress(ValueError):
        at = json.loads(heartbeat).get("at")
        return at if isinstance(at, str) else None
    return None


def is_alive(
    store: Store,
    job: JobPaths,
    standing: Standing,
    *,
    wait: Callable[[float], object] = time.sleep,
    seconds: float = STALE_SECONDS,
) -> bool:
    """Watch the heartbeat of an epoch for `seconds` of our own time: alive when it changes, gone when closed or silent."""
    if standing.state in ("closed", "dead"):
        return False
    waited = 0.0
    while waited < seconds:
        wait(1.0)
        waited += 1.0
        if records.find(store, job.closed(standing.number)) is not None:
            return False
        if _sign(store, job, standing.number) != standing.sign:
            return True
    return False


class Epoch:
    """This runner's time on the job; a context that beats until it ends and then says how it ended."""

    def __init__(self, store: Store, job: JobPaths, number: int) -> None:
        self.number = number
        self._store, self._job = store, job
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="batchinfer-heartbeat", daemon=True)

    @classmethod
    def begin(cls, store: Store, job: JobPaths, *, wait: Callable[[float], object] = time.sleep) -> Epoch:
        """Become the job's runner. Raises LockedError while another one is alive."""
        while True:
            standing = newest(store, job)
            if standing is not None and is_alive(store, job, standing, wait=wait):
                raise LockedError(
                    f"{store.root}: {standing.owner} is running this job; wait for it, or stop it, then run again"
                )
            number = standing.number + 1 if standing else 1
            if records.create(store, job.epoch(number), {**identity(), "at": _now()}):
                epoch = cls(store, job, number)
                epoch._thread.start()
                return epoch

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(HEARTBEAT_SECONDS):
            beats += 1
            try:
                self._store.put(self._job.heartbeat(self.number), records.to_bytes({"beat": beats, "at": _now()}))
            except (
                BatchinferError
            ):  # a store that is away stops the run elsewhere; a missed beat only invites a second runner
                continue

    def is_superseded(self) -> bool:
        """Whether a later runner has taken over."""
        return any(number_of(e.path) > self.number for e in self._store.list(f"{self._job.folder}/epochs"))

    def close(self, how: str) -> None:
        """Stop beating and record the clean end."""
        self._ended.set()
        self._thread.join()
        self._store.put(self._job.closed(self.number), records.to_bytes({"end": how}))
