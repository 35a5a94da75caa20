"""Prepare and predict apart: steps with pools of their own have their models in actors, which answer batches of the workers.

    driver ──shards──▶ workers ──batches, a few at a time──▶ model actors of a step
                               ◀──outputs──

The workers read, prepare, finish and write, and hold the models of the steps without a pool. A model actor is a worker like any other
(see Places), which also answers batches of others. So those of the kind that has the most GPUs measure, and take a shard in quarantine
as a whole; batches of others find another model actor meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from batchinfer.errors import ClusterError
from batchinfer.executors.actor import Place
from batchinfer.executors.admission import admit
from batchinfer.executors.cluster import Cluster, worker_count
from batchinfer.executors.model_pool import ASK_SECONDS, ModelPool
from batchinfer.executors.places import LOOK_SECONDS, Places
from batchinfer.executors.preparing import PreparingActor
from batchinfer.executors.protocol import Pool
from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker.context import Context, Failed, Failure, Outcome, Progress, Served, Share
from batchinfer.worker.worker import AHEAD


class PoolExecutor:
    """See Executor.

    Whose batch a model actor died of isn't known, so every shard with a batch there fails as lost; from then on one of them is
    in hand at a time, so that the next death names it. Who hangs or breaks the device is known.

    Args:
        context: the job; `context.threads` and `context.gpus` are each worker's.
        workers: how many; None as for RayExecutor.
        pools: the model actors, by step.
        address: of a running cluster; None starts one in this machine, without a dashboard, for this process.

    Raises ClusterError when the cluster can't be reached or can't hold the workers.

    """

    name = "ray"

    def __init__(self, context: Context, workers: int | None, pools: Mapping[str, Pool], address: str | None) -> None:
        held = [step.name for step in context.spec.models if step.name not in pools]
        mine = Share(context.threads, context.gpus)
        context = replace(context, shares={**dict.fromkeys(held, mine), **{n: p.share for n, p in pools.items()}})
        threads = (workers or 1) * context.threads + sum(p.most * p.threads for p in pools.values())
        self._cluster = Cluster(address, threads)
        self.workers = workers or worker_count()
        numbers = itertools.count(self.workers)
        self._pools = [
            ModelPool(self._cluster, context, step, pool, self.workers, numbers) for step, pool in pools.items()
        ]
        self._crew = Places(
            self._cluster,
            context if held else replace(context, gpus=0),
            AHEAD + 4,
            PreparingActor,
            (list(pools),),
            lambda: ({pool.step: pool.joining for pool in self._pools},),
            held,
            holds_model=bool(held),
        )
        most = max(self._pools, key=lambda p: (p.pool.gpus or 0, p.pool.threads))
        self._host = most if (most.pool.gpus or 0) >= (context.gpus or 0) else None
        """That measures and takes shards in quarantine; None for the workers."""
        self._is_open = False
        self._held: deque[tuple[Shard, bool]] = deque()
        """Shards that wait for their turn here: suspects, and those for a model actor that isn't ready."""
        self._suspects: set[int] = set()
        try:
            for number in range(self.workers):
                self._crew.add(number)
            for pool in self._pools:
                for _ in range(pool.pool.least):
                    pool.add()
        except BaseException:
            self.close()  # a Ray of our own must not outlive us
            raise

    @property
    def _groups(self) -> list[Places]:
        return [*(pool.places for pool in self._pools), self._crew]

    def measure(self, shards: Sequence[Shard], *, quarantined: bool = False) -> Settings:
        """See Executor."""
        places = self._crew if self._host is None else self._host.places
        return places.measure(shards, quarantined=quarantined)

    def start(self, settings: Settings, *, quarantined: bool = False) -> None:  # noqa: ARG002 - who prepares needs loaded models
        """See Executor."""
        for places in self._groups:
            places.settings = settings
        asked = [c for pool in self._pools for c in pool.places.candidates(f"{pool.step}.workers")]
        at_once = admit([*asked, *self._crew.candidates("resources.workers")])
        for pool in self._pools:
            pool.places.load_all(at_once, [other.places for other in self._pools if other is not pool])
        while not self._is_open or not all(p.is_ready for places in self._groups for p in places.every):
            self._crew.go_on()
            self.wait(LOOK_SECONDS)
            if not self._is_open and all(pool.opened() for pool in self._pools):
                self._is_open = True
                self._tell()
                self._crew.load_all(at_once, [pool.places for pool in self._pools])
        for pool in self._pools:
            pool.begin()

    def wants(self) -> int:
        """See Executor."""
        return max(0, sum(place.room for place in self._crew.every) - len(self._held)) if self._is_open else 0

    def submit(self, shard: Shard, *, quarantined: bool = False) -> None:
        """See Executor. In quarantine, one that has the device takes the whole shard: its child processes need it."""
        self._held.append((shard, quarantined))
        self._give_out()

    def _give_out(self) -> None:
        """Give the shards that are held to whoever can take them now."""
        for _ in range(len(self._held)):
            shard, quarantined = self._held.popleft()
            host = self._host if quarantined else None
            place = self._worker_for(shard) if host is None else host.for_a_shard()
            if place is None:
                self._held.append((shard, quarantined))
            else:
                (self._crew if host is None else host.places).run(place, shard, quarantined=quarantined)
        self._tell()

    def _worker_for(self, shard: Shard) -> Place | None:
        others = {s.number for p in self._crew.every for s in p.running.values()} - {shard.number}
        if shard.number in self._suspects and others & self._suspects:
            return None
        place = max(self._crew.every, key=lambda p: p.room)
        return place if place.room > 0 else None

    def wait(self, seconds: float) -> list[Outcome]:
        """See Executor."""
        calls = [call for places in self._groups for call in places.calls]
        ready = self._cluster.ready(calls, seconds) if calls else []
        outcomes = [outcome for pool in self._pools for outcome in pool.look(ready)]
        outcomes += [self._judged(outcome) for outcome in self._crew.look(ready)]
        if self._crew.stopped:
            outcomes += [Failed(s.number, Failure.STOPPED, "stopped before it was begun") for s, _ in self._held]
            self._held.clear()
        elif self._is_open:
            for pool in self._pools:
                pool.scale(self._crew.every)
        self._give_out()
        return outcomes

    def _judged(self, outcome: Outcome) -> Outcome:
        """An outcome with what is known here of its failure."""
        if not isinstance(outcome, Failed):
            self._suspects.discard(outcome.shard)
            return outcome
        if outcome.failure is Failure.LOST:
            for pool in self._pools:
                if (why := pool.places.guilty.pop(outcome.shard, None)) is not None:
                    return replace(outcome, failure=Failure.HUNG, error=why)
            self._suspects.add(outcome.shard)
        return outcome

    def _tell(self) -> None:
        for pool in self._pools:
            pool.tell(self._crew.every)

    def progress(self) -> list[Progress]:
        """See Executor: as the workers that prepare last said."""
        return [place.progress for place in self._crew.every]

    def served(self) -> Mapping[str, Served]:
        """See Executor."""
        return {pool.step: pool.served() for pool in self._pools}

    def stop(self) -> None:
        """See Executor. The model actors go on: workers wait for the batches that they sent."""
        for pool in self._pools:
            pool.places.stopped = True
            for place in pool.places.every:
                if place.running:
                    place.actor.stop.remote()
        self._crew.stop()

    def close(self) -> None:
        """See Executor."""
        if self._is_open:
            with contextlib.suppress(ClusterError):
                self._cluster.insist()
                for pool in self._pools:
                    pool.places.ask(ASK_SECONDS)
        self._cluster.close([actor for places in self._groups for actor in places.actors])
