"""Workers as Ray actors.

Actors run with `max_restarts=0, max_task_retries=0`: Ray's own retries count attempts inside the thing that dies. A dead actor
is replaced here, and what becomes of its shards is decided by the runner. Nothing durable lives in Ray: a worker reads its
shard from storage and writes its own results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchinfer.executors.admission import admit
from batchinfer.executors.cluster import Cluster, worker_count
from batchinfer.executors.places import LOOK_SECONDS, Places
from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker.context import Context, Outcome, Progress, Served
from batchinfer.worker.worker import AHEAD


class RayExecutor:
    """See Executor.

    Args:
        context: the job; `context.threads` and `context.gpus` are each worker's share.
        workers: how many; None for one on each GPU of the cluster, or one on each node of a cluster without.
        address: of a running cluster; None starts one in this machine, without a dashboard, for this process.

    Raises ClusterError when the cluster can't be reached or can't hold the workers.

    """

    name = "ray"

    def __init__(self, context: Context, workers: int | None, address: str | None) -> None:
        self._cluster = Cluster(address, (workers or 1) * context.threads)
        self._places = Places(self._cluster, context, AHEAD + 2)
        try:
            self.workers = workers or worker_count()
            for number in range(self.workers):
                self._places.add(number)
        except BaseException:
            self.close()  # a Ray of our own must not outlive us
            raise

    def measure(self, shards: Sequence[Shard], *, quarantined: bool = False) -> Settings:
        """See Executor."""
        return self._places.measure(shards, quarantined=quarantined)

    def start(self, settings: Settings, *, quarantined: bool = False) -> None:
        """See Executor."""
        self._places.settings = settings
        if quarantined:
            for place in self._places.every:
                self._places.load(place, quarantined=True)
        else:
            self._places.load_all(admit(self._places.candidates("resources.workers")))
        while not all(place.is_ready for place in self._places.every):
            self._places.go_on()
            self.wait(LOOK_SECONDS)

    def wants(self) -> int:
        """See Executor."""
        return sum(place.room for place in self._places.every)

    def submit(self, shard: Shard, *, quarantined: bool = False) -> None:
        """See Executor."""
        self._places.run(max(self._places.every, key=lambda p: p.room), shard, quarantined=quarantined)

    def wait(self, seconds: float) -> list[Outcome]:
        """See Executor."""
        calls = self._places.calls
        return self._places.look(self._cluster.ready(calls, seconds)) if calls else []

    def progress(self) -> list[Progress]:
        """See Executor: as the workers last said."""
        return [place.progress for place in self._places.every]

    def served(self) -> Mapping[str, Served]:
        """See Executor."""
        return {}

    def stop(self) -> None:
        """See Executor."""
        self._places.stop()

    def close(self) -> None:
        """See Executor."""
        self._cluster.close(self._places.actors)
