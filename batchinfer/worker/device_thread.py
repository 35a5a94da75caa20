"""The device's thread, on which the model is called, and the streams that it hands calls to."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import queue
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from batchinfer.errors import HungError
from batchinfer.worker.items import Batch, Call
from batchinfer.worker.streams import Streams

_LOOK_SECONDS = 0.1


class DeviceThread:
    """Takes batches and calls from `inbox`, in their order, and hands on what the model gives.

    Args:
        infer: what the model gives for an item.
        outbox: takes what it gives: results, or futures of lists of them where there are streams.
        overdue: that a call of the model takes too long, in words; None where none does.
        holds_model: whether the model is called here, so that having no batch is its waiting.

    """

    def __init__(
        self,
        infer: Callable[[Any], Iterable[Any]],
        outbox: queue.Queue[Any],
        overdue: Callable[[], str | None],
        *,
        holds_model: bool,
    ) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue(2)
        self._infer, self._outbox, self._overdue, self._holds_model = infer, outbox, overdue, holds_model
        self._streams: Streams | None = None
        self._urgent: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        """Calls that can't wait behind batches: what the writing thread waits for, with the device's outputs held up by it."""
        self._waited = 0.0
        """Seconds for which there was no batch or one could not be passed on, since the last one was taken."""

    def begin(self, streams: int, name: str) -> None:
        """Hand batches to so many threads from now on, where that is more than one; `name` is theirs, for people."""
        self._streams = Streams(streams, name) if streams > 1 and self._holds_model else None

    def run(self) -> None:
        """Work until None comes, and on urgent calls until `writing_ended`."""
        while (item := self._waiting(self.inbox.get)) is not None:
            self._run_urgent()
            if isinstance(item, Call) and item.beside:
                self._beside(item.run)
            elif isinstance(item, Call):
                item.run()
                self._waited = 0.0  # loading and measuring are no work on batches
            else:
                self._note_waiting(item)
                for result in self._results(item):
                    self._hand_on(result)
        self._hand_on(None)
        while (call := self._urgent.get()) is not None:
            call.run()

    def call(self, function: Callable[[], Any]) -> Any:
        """What the function gives on this thread, after the batches that were put in before. Raises HungError."""
        call = Call(function, Future())
        self.inbox.put(call)
        while not call.future.done():
            concurrent.futures.wait([call.future], _LOOK_SECONDS)
            if (overdue := self._overdue()) is not None:
                raise HungError(overdue)
        return call.future.result()

    def call_now(self, function: Callable[[], Any]) -> Any:
        """What the function gives on this thread, called as soon as it has no batch in hand."""
        call = Call(function, Future())
        self._urgent.put(call)
        with contextlib.suppress(queue.Full):  # where there are batches, it looks by itself
            self.inbox.put_nowait(Call(lambda: None, Future()))
        return call.future.result()

    def writing_ended(self) -> None:
        """No urgent call comes any more."""
        self._urgent.put(None)

    def close(self) -> None:
        """End the streams."""
        if self._streams is not None:
            self._streams.close()

    def _note_waiting(self, item: Any) -> None:
        """Add to the shard what was waited for: before it is handed on, as at a shard's end the writing thread takes the sum."""
        if self._holds_model:
            item.run.times.add("wait", self._waited)
        self._waited = 0.0

    def _results(self, item: Any) -> Iterable[Any]:
        """What the model gives: from a stream a future of that. A child process takes one call at a time, and so do models that have all
        of the threads for a call: others must be over then.
        """
        if self._streams is None or not isinstance(item, Batch) or item.run.quarantined:
            return self._infer(item)
        step = item.run.at(item.window)
        if step.settings.streams > 1:
            return [self._beside(lambda: list(self._infer(item)))]
        if not step.node.is_model:
            return self._infer(item)
        with self._streams.none(self._run_urgent, _LOOK_SECONDS):
            return list(self._infer(item))

    def _beside(self, work: Callable[[], Any]) -> Future[Any] | None:
        """Do it on the next stream that is free, or here where there are none."""
        if self._streams is None:
            work()
            return None
        while not self._streams.wait(_LOOK_SECONDS):
            self._run_urgent()
        return self._streams.submit(work)

    def _hand_on(self, result: Any) -> None:
        while True:
            try:
                self._waiting(functools.partial(self._outbox.put, result, timeout=_LOOK_SECONDS))
            except queue.Full:
                self._run_urgent()
            else:
                return

    def _waiting(self, function: Callable[[], Any]) -> Any:
        """What the function gives; the time that it takes is the device's waiting, unless a stream is at work."""
        if self._streams is not None and self._streams.busy:
            return function()
        start = time.perf_counter()
        try:
            return function()
        finally:
            self._waited += time.perf_counter() - start

    def _run_urgent(self) -> None:
        with contextlib.suppress(queue.Empty):
            while (call := self._urgent.get_nowait()) is not None:
                call.run()
