"""A worker that prepares for steps with pools of their own: their models are in actors, among which it chooses for each batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from batchinfer.engines.protocol import Description, Engine
from batchinfer.engines.travel import Packed, pack, unpack
from batchinfer.errors import BatchinferError, ModelLostError, StoppedError
from batchinfer.executors.actor import Actor
from batchinfer.executors.cluster import DEATHS, first_line
from batchinfer.measure.settings import Settings
from batchinfer.worker.context import Context
from batchinfer.worker.process import ProcessId
from batchinfer.worker.serving import Answer
from batchinfer.worker.watched import Counted
from batchinfer.worker.worker import Worker

_LOOK_SECONDS = 0.2
_DRAIN_SECONDS = 10.0
"""How long a worker that is to stop waits for batches in hand."""


@dataclass(frozen=True)
class Member:
    """A model actor that takes batches."""

    number: int
    incarnation: int
    actor: Any

    @property
    def key(self) -> tuple[int, int]:
        """Its place, and how many were there before it."""
        return self.number, self.incarnation


@dataclass(frozen=True)
class Joining:
    """What a worker must know of a step's pool to send batches to it."""

    opened: Packed
    """The engine without its model."""
    each: int
    """Batches that each model actor may have from one worker."""
    version: int
    members: Sequence[Member]


@dataclass
class _Line:
    """What is known here of a member's queue."""

    member: Member
    mine: int = 0
    others: int = 0
    """Batches of other workers that waited when it last answered."""
    chosen: int = 0
    away: bool = False
    """Whether it has died, or has said that it holds no model now."""


class Rotation:
    """See Models. Any thread may use it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: dict[tuple[int, int], _Line] = {}
        self._version = -1
        self._opened: Packed | None = None
        self._each = 2
        self._sent = 0
        self._stopped_at: float | None = None

    def begin(self, pool: Joining) -> None:
        """Know the pool from now on."""
        self._opened, self._each = pool.opened, pool.each
        self.take(pool.version, pool.members)

    def take(self, version: int, members: Sequence[Member]) -> None:
        """Send to these from now on, unless a later version has come before."""
        with self._changed:
            if version > self._version:
                self._version = version
                lines = {m.key: self._lines.get(m.key) or _Line(m) for m in members}
                for line in lines.values():
                    line.away = False
                self._lines = lines
                self._changed.notify_all()

    def stop(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._stopped_at = time.monotonic()
            self._changed.notify_all()

    def opened(self) -> tuple[Engine, Description]:
        """See Models."""
        assert self._opened is not None, "begin() comes before the worker is started"
        opened: tuple[Engine, Description] = unpack(self._opened)
        return opened

    def send(self, shard: int, batch: Counted) -> SentBatch:
        """See Models."""
        sent = SentBatch(self, shard, pack(batch))
        sent.go()
        return sent

    def line(self) -> _Line:
        """The line to the least busy, with a place in it taken. Raises StoppedError."""
        with self._changed:
            while True:
                if self._stopped_at is not None:
                    raise StoppedError("stopped before the shard was finished")
                open_ = [line for line in self._lines.values() if not line.away and line.mine < self._each]
                if open_:
                    break
                self._changed.wait(_LOOK_SECONDS)
            line = min(open_, key=lambda line: (line.mine + line.others, line.chosen))
            self._sent += 1
            line.mine, line.chosen = line.mine + 1, self._sent
            return line

    def leave(self, line: _Line, answer: Answer | None) -> None:
        """A place in a line is free again; None for an answer that won't come."""
        with self._changed:
            line.mine -= 1
            if answer is None or answer.outputs is None:
                line.away = True
            else:
                line.others = max(0, answer.queued - line.mine)
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether it was stopped so long ago that answers aren't waited for any more."""
        return self._stopped_at is not None and time.monotonic() - self._stopped_at > _DRAIN_SECONDS


class SentBatch:
    """See Sent."""

    def __init__(self, rotation: Rotation, shard: int, batch: Packed) -> None:
        self._rotation, self._shard, self._batch = rotation, shard, batch
        self._future: Future[Answer] = Future()

    def go(self) -> None:
        """Hand it to the least busy. Raises StoppedError."""
        line, self._future = self._rotation.line(), Future()
        future = self._future
        call = line.member.actor.infer.remote(self._shard, self._batch)
        call.future().add_done_callback(lambda came: self._came(line, came, future))

    def _came(self, line: _Line, came: Future[Answer], future: Future[Answer]) -> None:
        error = came.exception()
        answer = came.result() if error is None else None
        self._rotation.leave(line, answer)
        if answer is not None:
            future.set_result(answer)
        elif isinstance(error, DEATHS):
            text = f"the model actor {line.member.number} ended with batches in hand: {first_line(error)}"
            future.set_exception(ModelLostError(text))
        else:
            future.set_exception(BatchinferError(f"{type(error).__name__}: {error}"))

    def answer(self) -> Answer:
        """See Sent. A batch that was sent where no model is any more goes on to the next."""
        while (answer := self._heard()).outputs is None:
            self.go()
        return answer

    def _heard(self) -> Answer:
        while True:
            try:
                return self._future.result(_LOOK_SECONDS)
            except TimeoutError:
                if self._rotation.is_over:
                    raise StoppedError("stopped before the shard was finished") from None


class PreparingActor(Actor):
    """A worker without the models of some steps, in a process of its own."""

    def __init__(self, context: Context, number: int, steps: Sequence[str]) -> None:
        super().__init__(context, number)
        self._rotations = {step: Rotation() for step in steps}

    def _made(self) -> Worker:
        if self._worker is None:
            self._worker = Worker(self._context, self._number, self._rotations)
        return self._worker

    def start(  # type: ignore[override]
        self,
        settings: Settings,
        former: ProcessId | None,
        quarantined: bool,
        tried: bool,
        pools: Mapping[str, Joining],
    ) -> None:
        """See Actor; `pools` by step."""
        for step, pool in pools.items():
            self._rotations[step].begin(pool)
        super().start(settings, former, quarantined, tried)

    def members(self, step: str, version: int, members: Sequence[Member]) -> None:
        """Those that hold the model of a step have changed."""
        self._rotations[step].take(version, members)

    def stop(self) -> None:
        """See Worker.stop."""
        super().stop()
        for rotation in self._rotations.values():
            rotation.stop()
