"""The parts that former runs of a generation left, read while this run works."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future

from batchinfer.errors import OutputError
from batchinfer.ledger import parts
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.parts import Part
from batchinfer.run.judge import refuse_superseded
from batchinfer.storage.store import Store


class StandingParts:
    """See the module. Each part is given once.

    Args:
        store: the output.
        job: whose parts they are.
        generation: its number.

    """

    def __init__(self, store: Store, job: Job, generation: int) -> None:
        self._store, self._job, self._generation = store, job, generation
        self._reading: deque[Future[Part]] = deque()

    def read(self, shards: Sequence[int], pool: Executor) -> None:
        """Begin to read those of these shards."""
        self._reading += [pool.submit(parts.read, self._store, self._job.paths, number) for number in shards]

    def take(self, into: list[Part], *, done: bool = False) -> None:
        """Put those there that are left; where `done`, only up to the first that isn't read yet.

        Raises OutputError for one that is damaged or gone, LockedError where the job was replaced, which takes its parts away.
        """
        while self._reading and (not done or self._reading[0].done()):
            try:
                into.append(self._reading[0].result())
            except FileNotFoundError as e:
                refuse_superseded(self._store, self._job, self._generation)
                raise OutputError(
                    f"{self._store.root}: a part that stood when this run began is gone ({e}); run again to make it anew"
                ) from e
            self._reading.popleft()

    def sound(self) -> list[Part]:
        """The rest, without those that can't be read."""
        return [future.result() for future in self._reading if future.exception() is None]
