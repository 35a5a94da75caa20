"""A worker's model for batches that other workers have prepared."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from batchinfer.engines import faults
from batchinfer.engines.faults import Fault
from batchinfer.engines.travel import Packed, pack, unpack
from batchinfer.errors import BatchinferError, DeviceError
from batchinfer.worker.context import Served
from batchinfer.worker.failures import Raised, row_error
from batchinfer.worker.items import Call
from batchinfer.worker.watched import Watched


@dataclass(frozen=True)
class Answer:
    """What came of a batch."""

    outputs: Packed | Raised | None
    """None where the model isn't held now: another one has to be asked."""
    seconds: float
    """Of the model's call."""
    queued: int
    """Batches that still waited for their turn."""


class Serving:
    """Answers batches in the order in which they come, as many at a time as the settings have streams.

    Args:
        engine: the model.
        ready: whether it is loaded.
        on_device: puts a call into the device thread's queue.

    """

    def __init__(self, engine: Watched, ready: Callable[[], bool], on_device: Callable[[Call], None]) -> None:
        self.engine, self._ready, self._on_device = engine, ready, on_device
        self._lock = threading.Condition()
        self._queued = 0
        self._in_hand: dict[object, int] = {}
        """Shards whose batches the model is called with, by call, the oldest first."""
        self._streams = 1
        self._served = Served()
        self._counted_until: float | None = None
        self.broken = ""
        """What broke the device."""

    def infer(self, shard: int, batch: Packed) -> Answer:
        """The model's outputs for a batch of a shard. Any thread may call it; it returns when the batch has had its turn."""
        arrived, payload = time.monotonic(), unpack(batch)
        with self._lock:
            self._queued += 1
        future: Future[tuple[Any, float]] = Future()
        try:
            self._on_device(Call(lambda: self._turn(shard, payload, arrived), future, beside=True))
            outputs, seconds = future.result()
        finally:
            with self._lock:
                self._queued -= 1
                self._lock.notify_all()
        if not isinstance(outputs, Raised | None):
            try:
                outputs = pack(outputs)
            except BaseException as e:  # noqa: BLE001 - what a model gives may be anything, and raise anything
                outputs = Raised(row_error(e, attempts=1))
        return Answer(outputs, seconds, self._queued)

    def wait_until_drained(self) -> None:
        """Return once every batch that came has had its turn."""
        with self._lock:
            self._lock.wait_for(lambda: not self._queued)

    def begin(self, streams: int) -> None:
        """The model is loaded: from now on it may be idle. It takes so many calls at a time."""
        with self._lock:
            self._streams = streams
            if self._counted_until is None:
                self._counted_until = time.monotonic()

    @property
    def shard(self) -> int | None:
        """Of the oldest batch that the model is called with."""
        with self._lock:
            return next(iter(self._in_hand.values()), None)

    @property
    def served(self) -> Served:
        """What was done so far."""
        with self._lock:
            self._count()
            return self._served

    def _count(self) -> None:
        """Add what passed since this was called last, with as many calls in hand as there are now."""
        if self._counted_until is None:
            return
        now = time.monotonic()
        passed, busy = now - self._counted_until, len(self._in_hand) / self._streams
        self._served += Served(busy=passed * busy, idle=passed * (1 - busy))
        self._counted_until = now

    def _turn(self, shard: int, payload: Any, arrived: float) -> tuple[Any, float]:
        """On the device's thread or a stream."""
        if not self._ready() or self.broken:
            return None, 0.0
        with self._lock:
            self._count()
            call, began = object(), time.monotonic()
            self._in_hand[call] = shard
            self._served += Served(batches=1, waited=began - arrived)
        try:
            outputs = self._called(payload)
        finally:
            with self._lock:
                self._count()
                del self._in_hand[call]
        if isinstance(outputs, Raised) and outputs.fault is Fault.MEMORY:
            faults.free_memory()
        return outputs, time.monotonic() - began

    def _called(self, payload: Any) -> Any:
        try:
            return self.engine.infer(payload)
        except DeviceError as e:
            self.broken = str(e)
            return Raised(e)
        except BatchinferError as e:
            return Raised(e)
        except BaseException as e:  # noqa: BLE001 - a model may raise anything, and what it raises is the row's error
            return Raised(row_error(e, attempts=1), faults.fault_of(e))
