"""Who runs: one record for each start of a runner, kept alive by heartbeats.

Only one runner should work on an output, to save work; that is all this is for. No result depends on it: a runner that wakes
up late can only lose the creation of a part.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
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
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 30.0
SETTLE_SECONDS = 2.0
"""How long a runner that began in the same moment may take to show, where records can be overwritten."""
_JOIN_SECONDS = 2.0


def identity() -> dict[str, Any]:
    """Who this process is: host, boot, process and its start, versions of what runs."""
    return {
        "host": platform.node(),
        "boot": _boot_id(),
        "pid_namespace": _pid_namespace(),
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


def _process(pid: int) -> tuple[str, str] | None:
    """State letter and start in clock ticks since boot of a process (fields 3 and 22 of /proc/<pid>/stat); None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def _process_start(pid: int) -> str | None:
    process = _process(pid)
    return process[1] if process else None


def _pid_namespace() -> str | None:
    """Containers of one host share its boot, and with a host network its name, but not its process numbers."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _seen_here(record: dict[str, Any]) -> str:
    """What this machine knows of a recorded process of its own boot, so that nobody waits for a heartbeat: `alive` or `dead`.

    `unknown` for another machine's or container's process, for one that is stopped (SIGSTOP): it may wake up, but is not worth
    waiting for longer than its heartbeat says; and for this very process, such as a notebook's, which may have ended a run before
    without being able to record it.
    """
    boot = _boot_id()
    if (
        boot is None
        or record.get("boot") != boot
        or record.get("host") != platform.node()
        or not record.get("process_start")
        or record.get("pid_namespace", _pid_namespace()) != _pid_namespace()
    ):
        return "unknown"
    process = _process(int(record["pid"]))
    if process is None or process[1] != record["process_start"] or process[0] in "ZX":
        return "dead"
    return "unknown" if process[0] in "Tt" or int(record["pid"]) == os.getpid() else "alive"


@dataclass(frozen=True)
class Standing:
    """What can be said of the newest epoch."""

    number: int
    state: str
    """`closed`; `alive` or `dead` where this machine can tell; else `unknown` until its heartbeat was watched."""
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
    numbers = records.numbers(store, f"{job.folder}/epochs")
    if not numbers:
        return None
    number = numbers[-1]
    record = records.read(store, job.epoch(number))
    owner = f"process {record.get('pid')} on {record.get('host')}"
    if records.find(store, job.closed(number)) is not None:
        return Standing(number, "closed", owner, b"")
    sign = _sign(store, job, number)
    return Standing(number, _seen_here(record), owner, sign, _time_in(sign) or record.get("at"))


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
    """Whether an epoch's runner lives: where that isn't known, its heartbeat is watched for `seconds` of our own time.

    Alive when the heartbeat changes, gone when it is closed or stays silent.
    """
    if standing.state != "unknown":
        return standing.state == "alive"
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

    def __init__(
        self,
        store: Store,
        job: JobPaths,
        number: int,
        superseded: Callable[[], object] = lambda: None,
        *,
        lease: bool = False,
    ) -> None:
        self.number = number
        self._lease = lease
        self._store, self._job, self._superseded = store, job, superseded
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="batchinfer-heartbeat", daemon=True)

    @classmethod
    def begin(
        cls,
        store: Store,
        job: JobPaths,
        superseded: Callable[[], object] = lambda: None,
        *,
        lease: bool = False,
        wait: Callable[[float], object] = time.sleep,
    ) -> Epoch:
        """Become the job's runner. Raises LockedError while another one is alive.

        Args:
            store: the output.
            job: the job's names.
            superseded: called once, from another thread, when a later runner has taken over: this one was taken for dead.
            lease: the store has no conditional creates, so that only this record and its heartbeat keep others away: look a
                second time whether the record is still ours, and call `superseded` too when no heartbeat could be stored for
                so long that others may take this runner for dead.
            wait: sleeps for some seconds.

        """
        while True:
            standing = newest(store, job)
            if standing is not None and is_alive(store, job, standing, wait=wait):
                raise LockedError(
                    f"{store.root}: {standing.owner} is running this job; wait for it, or stop it, then run again"
                )
            number = standing.number + 1 if standing else 1
            record = {**identity(), "at": _now(), "runner": secrets.token_hex(8)}
            if records.create(store, job.epoch(number), record):
                if lease:
                    wait(SETTLE_SECONDS)
                    if records.read(store, job.epoch(number))["runner"] != record["runner"]:
                        continue
                epoch = cls(store, job, number, superseded, lease=lease)
                epoch._thread.start()
                return epoch

    def _beat(self) -> None:
        beats, stored = 0, time.monotonic()
        while not self._ended.wait(HEARTBEAT_SECONDS):
            beats += 1
            try:
                self._store.put(self._job.heartbeat(self.number), records.to_bytes({"beat": beats, "at": _now()}))
                late = self._lease and time.monotonic() - stored > STALE_SECONDS
                stored = time.monotonic()
                if late or self.is_superseded():
                    self._superseded()
                    return
            except (BatchinferError, OSError):
                continue  # a store that is away stops the run elsewhere; a missed beat only invites a second runner

    def is_superseded(self) -> bool:
        """Whether a later runner has taken over."""
        return any(n > self.number for n in records.numbers(self._store, f"{self._job.folder}/epochs"))

    def close(self, how: str) -> None:
        """Stop beating and record the clean end."""
        self._ended.set()
        self._thread.join(_JOIN_SECONDS)  # a beat that the store holds up changes nothing about the end
        self._store.put(self._job.closed(self.number), records.to_bytes({"end": how}))
