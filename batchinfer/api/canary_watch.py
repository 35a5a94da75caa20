"""The times of a canary while it runs, round after round, and its end once they tell enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from batchinfer.measure.canary import Mark
from batchinfer.run.events import Event, Listener, Settled, Started, Ticked
from batchinfer.run.stop import StopRequest

ENOUGH_SECONDS = 3.0
"""Where the first round is over sooner, larger ones follow for so long; what once happens in each piece weighs too much in it."""
_ENOUGH = "the canary has seen enough"


class CanaryWatch:
    """A listener that takes the times of a canary, and asks for its end once it has seen enough.

    Args:
        sizes: the pieces of each round.
        listener: told of every event.
        stop: asks for the end too, as a failure.
        until_ready: whether it has seen enough once the workers are ready.
        clock: seconds since some moment.

    """

    def __init__(
        self,
        sizes: Sequence[int],
        listener: Listener | None,
        stop: StopRequest | None,
        *,
        until_ready: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stop = StopRequest()
        self.ready = 0.0
        self.memory = self.device_memory = 0
        self._sizes, self._listener, self._asked, self._until_ready = sizes, listener, stop, until_ready
        self._clock, self._begun = clock, clock()
        self._marks: list[Mark] = []

    @property
    def has_seen_enough(self) -> bool:
        """Whether it asked for the end itself."""
        return self.stop.reason == _ENOUGH

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        now = self._clock() - self._begun
        if isinstance(event, Settled):
            self.ready = now
            self._marks = [Mark(now, 0, 0)]
            if self._until_ready:
                self.stop.ask(_ENOUGH)
        elif isinstance(event, Ticked):
            self._took(event, now)
        if self._asked and isinstance(event, Started | Settled | Ticked):
            self.stop.ask(self._asked.reason, cancelled=self._asked.cancelled)
        if self._listener is not None:
            self._listener(event)

    def _took(self, event: Ticked, now: float) -> None:
        self.memory = max(self.memory, *(p.memory for p in event.progress), 0)
        self.device_memory = max(self.device_memory, *(p.device_memory for p in event.progress), 0)
        if event.decided > self._marks[-1].pieces:
            self._marks.append(Mark(now, event.decided, event.decided_rows))
            if now - self.ready >= ENOUGH_SECONDS and event.decided >= self._sizes[0]:
                self.stop.ask(_ENOUGH)

    def _ends_of_last_round(self) -> tuple[int, int]:
        """Pieces that were done before the last round that has ended, and after it; 0 where none has."""
        begin = end = 0
        for size in self._sizes:
            if end + size > self._marks[-1].pieces:
                break
            begin, end = end, end + size
        return begin, end

    def _at(self, pieces: int) -> Mark:
        """The first mark at which so many pieces were done."""
        return next(mark for mark in self._marks if mark.pieces >= pieces)

    def last_round(self) -> list[Mark]:
        """The marks of the last round that has ended, from the end of the one before."""
        begin, end = self._ends_of_last_round()
        first, last = self._at(begin), self._at(end)
        found = [mark for mark in self._marks if first.pieces <= mark.pieces <= last.pieces]
        # The first piece of all fills the stages, and a model's first calls are slow.
        return found[1:] if begin == 0 and len(found) > 2 else found
