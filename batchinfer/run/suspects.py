"""Which shards workers and runners died on, counted so that the count outlasts them: in the runner's heartbeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from batchinfer.ledger import epochs
from batchinfer.ledger.epochs import Epoch
from batchinfer.ledger.jobs import Job
from batchinfer.run import policy
from batchinfer.storage.store import Store
from batchinfer.worker.context import Failed
from batchinfer.worker.worker import AHEAD


class Suspects:
    """Deaths by shard.

    A runner that ends without saying so may have been ended by a row of a shard that it had in hand. Which those were needs no
    record: shards are given out in order, so they are the first undecided ones, as many as its workers hold at once.
    """

    def __init__(self, store: Store, job: Job, epoch: Epoch) -> None:
        self._store, self._job, self._epoch = store, job, epoch
        self._deaths: Counter[int] = Counter()

    def begin(self, left: Sequence[int], workers: int) -> None:
        """Take over what the runner before this one left, given the undecided shards in their order."""
        former = epochs.trace(self._store, self._job.paths, self._epoch.number - 1)
        noted = {int(n): int(deaths) for n, deaths in former.notes.get("deaths", {}).items()} if former else {}
        in_hand = [] if former is None or former.clean else left[: int(former.notes.get("in_hand", 0))]
        self._deaths = Counter(policy.deaths_before(noted, in_hand, left))
        self._note(in_hand=AHEAD * workers)

    def count(self, failed: Failed, max_retries: int) -> int:
        """The deaths on a failed shard, this failure included."""
        before = self._deaths[failed.shard]
        after = self._deaths[failed.shard] = policy.counted(failed, before, max_retries)
        if after != before:
            self._note()
        return after

    def quarantined(self, shard: int) -> bool:
        """Whether the shard's model is to run in a child process."""
        return self._deaths[shard] >= policy.QUARANTINE

    def _note(self, **more: int) -> None:
        self._epoch.note(deaths={str(n): deaths for n, deaths in sorted(self._deaths.items()) if deaths}, **more)
