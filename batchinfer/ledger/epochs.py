"""Who runs: one record for each start of a runner, kept alive by heartbeats.

Only one runner should work on an output, to save work; that is all this is for. No result depends on it: a runner that wakes
up late can only lose the creation of a part.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from batchinfer.errors import BatchinferError, LockedError, OutputError
from batchinfer.ledger import records
from batchinfer.ledger.host import HERE, Host
from batchinfer.ledger.spending import JOB_SECONDS, Meter
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.single_writer import SingleWriterStore
from batchinfer.storage.store import Store

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 30.0
"""Of our own time, for which a heartbeat must stand still before its runner counts as gone."""
SETTLE_SECONDS = 2.0
"""How long a runner that began in the same moment may take to show, where records can be overwritten."""
_CLOSE_SECONDS = 5.0


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
    device_seconds: float = 0.0
    """Of the job, up to then."""

    def age(self, now: datetime) -> float | None:
        """Seconds since the newest sign of life, as far as the two clocks agree."""
        return None if self.at is None else max(0.0, (now - datetime.fromisoformat(self.at)).total_seconds())


def latest(store: Store, job: JobPaths) -> int:
    """Number of the newest epoch of the job; 0 before the first."""
    return records.newest(store, job.epoch)


def newest(store: Store, job: JobPaths, host: Host = HERE) -> Standing | None:
    """The newest epoch of the job; None before the first."""
    number = latest(store, job)
    if not number:
        return None
    record = records.read(store, job.epoch(number))
    owner = f"process {record.get('pid')} on {record.get('host')}"
    if (closed := records.find(store, job.closed(number))) is not None:
        return Standing(number, "closed", owner, b"", device_seconds=closed.get(JOB_SECONDS, 0.0))
    sign = _sign(store, job, number)
    newest = {**record, **_read(sign)}
    return Standing(number, host.seen(record), owner, sign, newest.get("at"), newest.get(JOB_SECONDS, 0.0))


def _sign(store: Store, job: JobPaths, number: int) -> bytes:
    try:
        return store.read(job.heartbeat(number))
    except FileNotFoundError:
        return b""


def _read(heartbeat: bytes) -> dict[str, Any]:
    """What a heartbeat says; nothing where it is missing or damaged."""
    try:
        return records.from_bytes(heartbeat, "heartbeat")
    except OutputError:
        return {}


def is_alive(
    store: Store, job: JobPaths, standing: Standing, host: Host = HERE, *, seconds: float = STALE_SECONDS
) -> bool:
    """Whether an epoch's runner lives: where that isn't known, its heartbeat is watched for `seconds` of our own time.

    Alive when the heartbeat changes, gone when it is closed or stays silent.
    """
    if standing.state != "unknown":
        return standing.state == "alive"
    waited = 0.0
    while waited < seconds:
        host.sleep(1.0)
        waited += 1.0
        if records.find(store, job.closed(standing.number)) is not None:
            return False
        if _sign(store, job, standing.number) != standing.sign:
            return True
    return False


def cancel(store: Store, job: JobPaths, number: int, host: Host = HERE) -> None:
    """Ask the runner of an epoch to end: it looks with each heartbeat. Asking again changes nothing."""
    identity = host.identity()
    asked_by = f"process {identity.get('pid')} on {identity.get('host')}"
    records.create(store, job.cancel(number), {"asked_by": asked_by, "at": _text(host.now())})


@dataclass(frozen=True)
class Trace:
    """What a runner left for the one after it."""

    clean: bool
    """Whether it recorded its end."""
    notes: dict[str, Any]
    """What it noted last."""


def trace(store: Store, job: JobPaths, number: int) -> Trace | None:
    """What the runner of an epoch left; None where there is no such epoch."""
    if number < 1:
        return None
    return Trace(records.find(store, job.closed(number)) is not None, records.find(store, job.heartbeat(number)) or {})


class Epoch:
    """This runner's time on the job: it beats until `close`, which says how it ended. `meter` counts what the run takes of devices.

    Args:
        store: the output.
        job: that is run.
        number: of the epoch, whose record stands.
        superseded: see `begin`.
        cancelled: see `begin`.
        host: this machine.
        device_seconds: of the job's runs before.

    """

    def __init__(
        self,
        store: Store,
        job: JobPaths,
        number: int,
        superseded: Callable[[], object],
        cancelled: Callable[[str], object],
        host: Host,
        device_seconds: float = 0.0,
    ) -> None:
        self.number = number
        self.meter = Meter(device_seconds, host.monotonic)
        self._store, self._job, self._host = store, job, host
        self._superseded, self._cancelled = superseded, cancelled
        self._notes: dict[str, Any] = {}
        self._beats, self._stored = 0, host.monotonic()
        self._end = host.every(HEARTBEAT_SECONDS, self._beat, "batchinfer-heartbeat")

    @classmethod
    def begin(
        cls,
        store: Store,
        job: JobPaths,
        superseded: Callable[[], object] = lambda: None,
        host: Host = HERE,
        cancelled: Callable[[str], object] = lambda _: None,
    ) -> Epoch:
        """Become the job's runner. Raises LockedError while another one is alive.

        `superseded` is called once, from another thread, when a later runner has taken over: this one was taken for dead; `cancelled`
        when somebody has asked that this one end, with who that was.
        """
        while True:
            standing = newest(store, job, host)
            if standing is not None and is_alive(store, job, standing, host):
                raise LockedError(
                    f"{store.root}: {standing.owner} is running this job; wait for it, or stop it, then run again"
                )
            number = standing.number + 1 if standing else 1
            former = standing.device_seconds if standing else 0.0
            record = {**host.identity(), "at": _text(host.now()), "runner": secrets.token_hex(8), JOB_SECONDS: former}
            if records.create(store, job.epoch(number), record):
                if isinstance(store, SingleWriterStore):
                    host.sleep(SETTLE_SECONDS)
                    if records.read(store, job.epoch(number))["runner"] != record["runner"]:
                        continue
                return cls(store, job, number, superseded, cancelled, host, former)

    def note(self, **notes: Any) -> None:
        """Put JSON values into this heartbeat and all that follow, for the runner after this one. Raises StorageError, AccessError."""
        self._notes = {**self._notes, **notes}
        self._put_beat()

    def _put_beat(self) -> None:
        notes = None
        # Once more where the other thread noted something meanwhile: an older beat must not stay on a newer one.
        while notes is not self._notes:
            notes = self._notes
            self._beats += 1
            beat = {"beat": self._beats, "at": _text(self._host.now()), **self.meter.to_json(), **notes}
            self._store.put(self._job.heartbeat(self.number), records.to_bytes(beat))

    def _beat(self) -> bool:
        """Give a sign of life; False when this runner's time is over."""
        try:
            self._put_beat()
            now = self._host.monotonic()
            late = isinstance(self._store, SingleWriterStore) and now - self._stored > STALE_SECONDS
            self._stored = now
            if late or self.is_superseded():
                self._superseded()
                return False
            if (asked := records.find(self._store, self._job.cancel(self.number))) is not None:
                self._cancelled(str(asked.get("asked_by")))
        except (BatchinferError, OSError):
            pass  # a store that is away stops the run elsewhere; a missed beat only invites a second runner
        return True

    def is_superseded(self) -> bool:
        """Whether a later runner has taken over."""
        return latest(self._store, self._job) > self.number

    def close(self, how: str) -> None:
        """Stop beating and record the clean end, unless the store is away: that counts as an unclean one.

        Whoever ends a run sends a signal and waits for seconds, and a store that is away is waited for far longer.
        """
        self._end()
        self._host.within(_CLOSE_SECONDS, lambda: self._close(how), "batchinfer-close")

    def _close(self, how: str) -> None:
        with contextlib.suppress(BatchinferError):
            self._store.put(self._job.closed(self.number), records.to_bytes({"end": how, **self.meter.to_json()}))


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
