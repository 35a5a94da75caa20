"""Prepare and predict apart: workers without a device prepare shards, and a pool of model actors answers their batches.

    driver ──shards──▶ preparing workers ──batches, a few at a time──▶ model actors
                                         ◀──outputs──

A model actor is a worker like any other (see Places), which also answers batches of others. So it measures, and takes a shard in
quarantine as a whole; batches of others find another one meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.exceptions

from batchinfer.engines.travel import Packed
from batchinfer.errors import ClusterError
from batchinfer.executors import scaling
from batchinfer.executors.actor import Place
from batchinfer.executors.admission import fits
from batchinfer.executors.cluster import DEATHS, Cluster, translated, worker_count
from batchinfer.executors.places import LOOK_SECONDS, Places
from batchinfer.executors.preparing import Member, PreparingActor
from batchinfer.executors.protocol import Pool
from batchinfer.executors.scaling import Stretch
from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker.context import Context, Failed, Failure, Outcome, Progress, Served
from batchinfer.worker.memory import Need
from batchinfer.worker.worker import AHEAD

SCALE_SECONDS = 10.0
"""How often the size of the pool is looked at."""
_ASK_SECONDS = 1.0
"""How long model actors may take to say what they did at the end, and what memory there is."""


@dataclass(frozen=True)
class _Leaving:
    """A model actor that is given up as soon as nobody sends to it and it has answered everyone."""

    place: Place
    told: list[Any]
    """The calls that tell the workers."""
    drained: Any = None


class PoolExecutor:
    """See Executor.

    Whose batch a model actor died of isn't known, so every shard with a batch there fails as lost; from then on one of them is
    in hand at a time, so that the next death names it. Who hangs or breaks the device is known.

    Args:
        context: the job; `context.threads` are each preparing worker's.
        workers: how many prepare; None as for RayExecutor.
        pool: the model actors.
        address: of a running cluster; None starts one in this machine, without a dashboard, for this process.

    Raises ClusterError when the cluster can't be reached or can't hold the workers.

    """

    name = "ray"

    def __init__(self, context: Context, workers: int | None, pool: Pool, address: str | None) -> None:
        self._pool, self._step = pool, context.spec.models[0]
        self._cluster = Cluster(address, (workers or 1) * context.threads + pool.most * pool.threads)
        self.workers = workers or worker_count()
        on_device = replace(context, threads=pool.threads, gpus=pool.gpus, workers=pool.most)
        self._models = Places(self._cluster, on_device, AHEAD + 4 + (1 + pool.threads) * self.workers)
        self._crew = Places(self._cluster, replace(context, gpus=0), AHEAD + 4, PreparingActor, self._joining)
        self._opened: Packed | None = None
        self._members: list[Member] = []
        self._version = 0
        self._held: deque[tuple[Shard, bool]] = deque()
        """Shards that wait for their turn here: suspects, and those for a model actor that isn't ready."""
        self._suspects: set[int] = set()
        self._leaving: _Leaving | None = None
        self._former = Served()
        """What model actors did that have left."""
        self._looked, self._seen = time.monotonic(), Served()
        try:
            for number in range(self.workers):
                self._crew.add(number)
            for _ in range(pool.least):
                self._add_model()
        except BaseException:
            self.close()  # a Ray of our own must not outlive us
            raise

    def _add_model(self) -> Place:
        number = max((p.number for p in self._models.every), default=self.workers - 1) + 1
        place = self._models.add(number)
        place.serving = True
        return place

    def _joining(self) -> tuple[Any, ...]:
        assert self._models.settings is not None
        # What it computes, and one more, which has come before it is done.
        each = 1 + max(s.streams for s in self._models.settings.within(self._pool.threads).steps.values())
        return self._opened, each, self._version, self._members

    def measure(self, shards: Sequence[Shard], *, quarantined: bool = False) -> Settings:
        """See Executor: on a model actor."""
        return self._models.measure(shards, quarantined=quarantined)

    def start(self, settings: Settings, *, quarantined: bool = False) -> None:  # noqa: ARG002 - who prepares needs a loaded model
        """See Executor."""
        self._models.settings = self._crew.settings = settings
        self._models.load_all(f"{self._step.name}.workers")
        while self._opened is None or not all(p.is_ready for p in (*self._models.every, *self._crew.every)):
            self.wait(LOOK_SECONDS)
        self._looked = time.monotonic()

    def wants(self) -> int:
        """See Executor."""
        return (
            max(0, sum(place.room for place in self._crew.every) - len(self._held)) if self._opened is not None else 0
        )

    def submit(self, shard: Shard, *, quarantined: bool = False) -> None:
        """See Executor. In quarantine, a model actor takes the whole shard: its child process needs the device."""
        self._held.append((shard, quarantined))
        self._give_out()

    def _give_out(self) -> None:
        """Give the shards that are held to whoever can take them now."""
        for _ in range(len(self._held)):
            shard, quarantined = self._held.popleft()
            place = self._place_for(shard, quarantined=quarantined)
            if place is None:
                self._held.append((shard, quarantined))
            else:
                (self._models if quarantined else self._crew).run(place, shard, quarantined=quarantined)
        self._tell()

    def _place_for(self, shard: Shard, *, quarantined: bool) -> Place | None:
        if quarantined:
            ready = [p for p in self._models.every if p.is_ready and not self._is_leaving(p)]
            return max(ready, key=lambda p: len(p.running), default=None)
        others = {s.number for p in self._crew.every for s in p.running.values()} - {shard.number}
        if shard.number in self._suspects and others & self._suspects:
            return None
        place = max(self._crew.every, key=lambda p: p.room)
        return place if place.room > 0 else None

    def wait(self, seconds: float) -> list[Outcome]:
        """See Executor."""
        calls = [*self._crew.calls, *self._models.calls]
        ready = self._cluster.ready(calls, seconds) if calls else []
        outcomes = self._look_at_models(ready)
        outcomes += [self._judged(outcome) for outcome in self._crew.look(ready)]
        if self._models.stopped:
            outcomes += [Failed(s.number, Failure.STOPPED, "stopped before it was begun") for s, _ in self._held]
            self._held.clear()
        elif self._models.settings is not None:
            self._open()
            self._scale()
        self._give_out()
        return outcomes

    def _look_at_models(self, ready: list[Any]) -> list[Outcome]:
        before = {id(p) for p in self._models.every if p.running}
        outcomes = self._models.look(ready)
        for place in [] if self._models.stopped else self._models.every:
            if not place.is_ready:
                continue
            if why := place.gone or place.progress.broken:
                outcomes += self._models.replace(place, f"the model actor {place.number}: {why}", Failure.LOST)
            elif id(place) in before and not place.running:
                self._models.load(place)  # the last shard in quarantine is done with
        return outcomes

    def _judged(self, outcome: Outcome) -> Outcome:
        """An outcome with what is known here of its failure."""
        if not isinstance(outcome, Failed):
            self._suspects.discard(outcome.shard)
            return outcome
        if outcome.failure is Failure.LOST:
            if (why := self._models.guilty.pop(outcome.shard, None)) is not None:
                return replace(outcome, failure=Failure.HUNG, error=why)
            self._suspects.add(outcome.shard)
        return outcome

    def _open(self) -> None:
        """Have the workers begin once a model actor can say what they need."""
        ready = [p for p in self._models.every if p.is_ready and not p.running]
        if self._opened is not None or not ready:
            return
        self._tell()
        try:
            with translated():
                self._opened = ray.get(ready[0].actor.without_model.remote())
        except DEATHS:
            return  # it is replaced at the next look
        for place in self._crew.every:
            self._crew.load(place)

    def _tell(self) -> list[Any]:
        """Tell the workers which model actors take batches, where that has changed; the calls that do."""
        members = [
            Member(p.number, p.incarnation, p.actor)
            for p in self._models.every
            if p.is_ready and not p.running and not p.gone and not self._is_leaving(p)
        ]
        if [m.key for m in members] == [m.key for m in self._members]:
            return []
        self._members, self._version = members, self._version + 1
        return [place.actor.members.remote(self._version, members) for place in self._crew.every]

    def _is_leaving(self, place: Place) -> bool:
        return self._leaving is not None and self._leaving.place is place

    def _scale(self) -> None:
        """Grow or shrink the pool, one model actor at a time."""
        if self._leaving is not None:
            self._let_go(self._leaving)
            return
        now = time.monotonic()
        if self._pool.least == self._pool.most or now - self._looked < SCALE_SECONDS:
            return
        seen, count = self.served(), len(self._models.every)
        stretch = Stretch(
            count,
            now - self._looked,
            seen.batches - self._seen.batches,
            seen.busy - self._seen.busy,
            seen.waited - self._seen.waited,
        )
        self._looked, self._seen = now, seen
        if any(not p.is_ready or p.running for p in self._models.every):
            return  # it isn't what it will be
        wanted = scaling.target(self._pool.least, self._pool.most, stretch)
        if wanted > count and self._has_room():
            self._models.load(self._add_model())
        elif wanted < count:
            self._leaving = _Leaving(self._models.every[-1], [])
            self._leaving = replace(self._leaving, told=self._tell())

    def _let_go(self, leaving: _Leaving) -> None:
        if leaving.drained is None:
            if not leaving.told or len(ray.wait(leaving.told, num_returns=len(leaving.told), timeout=0)[1]) == 0:
                self._leaving = replace(leaving, drained=leaving.place.actor.drained.remote())
        elif ray.wait([leaving.drained], timeout=0)[0]:
            self._former += leaving.place.served + leaving.place.progress.served
            self._models.remove(leaving.place)
            self._leaving = None

    def _has_room(self) -> bool:
        """Whether the cluster could place one more now, and a machine of the pool has the memory for it."""
        assert self._models.settings is not None
        free, need = ray.available_resources(), Need.of(self._models.settings.memory)
        return bool(
            free.get("CPU", 0) >= self._pool.threads
            and free.get("GPU", 0) >= (self._pool.gpus or 0)
            and (need is None or any(room and fits(need, room) for _, room in self._models.rooms(_ASK_SECONDS)))
        )

    def progress(self) -> list[Progress]:
        """See Executor: as the workers that prepare last said."""
        return [place.progress for place in self._crew.every]

    def served(self) -> Served:
        """See Executor."""
        return sum((p.served + p.progress.served for p in self._models.every), self._former)

    def stop(self) -> None:
        """See Executor. The model actors go on: workers wait for the batches that they sent."""
        self._models.stopped = True
        for place in self._models.every:
            if place.running:
                place.actor.stop.remote()
        self._crew.stop()

    def close(self) -> None:
        """See Executor."""
        if self._opened is not None:
            with contextlib.suppress(ClusterError):
                self._cluster.insist()
                self._models.ask(_ASK_SECONDS)
        self._cluster.close([*self._crew.actors, *self._models.actors])
