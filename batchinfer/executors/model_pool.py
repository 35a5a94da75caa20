"""The model actors of a step with a pool of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from batchinfer.engines.travel import Packed
from batchinfer.executors import scaling
from batchinfer.executors.actor import Place
from batchinfer.executors.admission import fits
from batchinfer.executors.cluster import DEATHS, Cluster, translated
from batchinfer.executors.places import Places
from batchinfer.executors.preparing import Joining, Member
from batchinfer.executors.protocol import Pool
from batchinfer.executors.scaling import Stretch
from batchinfer.worker.context import Context, Failure, Outcome, Served
from batchinfer.worker.worker import AHEAD

SCALE_SECONDS = 10.0
"""How often the size of the pool is looked at."""
ASK_SECONDS = 1.0
"""How long model actors may take to say what they did at the end, and what memory there is."""


@dataclass(frozen=True)
class _Leaving:
    """A model actor that is given up as soon as nobody sends to it and it has answered everyone."""

    place: Place
    told: Sequence[Any]
    """The calls that tell the workers."""
    drained: Any = None


class ModelPool:
    """See above: they are loaded, watched and replaced, and become more or fewer.

    Args:
        cluster: where they run.
        context: the job; with the shares of its steps.
        step: the step's name.
        pool: how many there are, and what each has.
        workers: that send batches to them.
        numbers: gives each its number among the run's processes.

    """

    def __init__(
        self, cluster: Cluster, context: Context, step: str, pool: Pool, workers: int, numbers: Iterator[int]
    ) -> None:
        self.step, self.pool = step, pool
        self.places = Places(
            cluster,
            replace(context, threads=pool.threads, gpus=pool.gpus, workers=pool.most),
            AHEAD + 4 + (1 + pool.threads) * workers,
            made_with=(step,),
            steps=(step,),
        )
        self._numbers = numbers
        self._opened: Packed | None = None
        self._members: list[Member] = []
        self._version = 0
        self._leaving: _Leaving | None = None
        self._former = Served()
        """What model actors did that have left."""
        self._looked, self._seen = time.monotonic(), Served()

    def add(self) -> Place:
        """One more model actor, which has not loaded anything yet."""
        place = self.places.add(next(self._numbers))
        place.serving = True
        return place

    @property
    def joining(self) -> Joining:
        """What a worker must know that is to send batches here; once `opened` has said so."""
        assert self._opened is not None
        assert self.places.settings is not None
        streams = self.places.settings.steps[self.step].within(self.pool.threads).streams
        # What it computes, and one more, which has come before it is done.
        return Joining(self._opened, 1 + streams, self._version, self._members)

    def opened(self) -> bool:
        """Ask a model actor what workers need to send batches, unless that is known; whether it is, so that they may begin."""
        ready = [p for p in self.places.every if p.is_ready and not p.running]
        if self._opened is None and ready:
            try:
                with translated():
                    self._opened = ray.get(ready[0].actor.without_model.remote())
            except DEATHS:
                return False  # it is replaced at the next look
        return self._opened is not None

    def for_a_shard(self) -> Place | None:
        """One that could take a shard in quarantine."""
        ready = [p for p in self.places.every if p.is_ready and not self._is_leaving(p)]
        return max(ready, key=lambda p: len(p.running), default=None)

    def look(self, ready: list[Any]) -> list[Outcome]:
        """Take in what has happened, given the calls that have ended: outcomes of shards in quarantine."""
        places = self.places
        before = {id(p) for p in places.every if p.running}
        outcomes = places.look(ready)
        for place in [] if places.stopped else places.every:
            if not place.is_ready:
                continue
            if why := place.gone or place.progress.broken:
                outcomes += places.replace(place, f"the model actor {place.number}: {why}", Failure.LOST)
            elif id(place) in before and not place.running:
                places.load(place)  # the last shard in quarantine is done with
        return outcomes

    def tell(self, crew: Sequence[Place]) -> list[Any]:
        """Tell the workers which model actors take batches, where that has changed; the calls that do."""
        members = [
            Member(p.number, p.incarnation, p.actor)
            for p in self.places.every
            if p.is_ready and not p.running and not p.gone and not self._is_leaving(p)
        ]
        if [m.key for m in members] == [m.key for m in self._members]:
            return []
        self._members, self._version = members, self._version + 1
        return [place.actor.members.remote(self.step, self._version, members) for place in crew]

    def _is_leaving(self, place: Place) -> bool:
        return self._leaving is not None and self._leaving.place is place

    def begin(self) -> None:
        """The run begins now: from here on it counts how busy the pool is."""
        self._looked = time.monotonic()

    def scale(self, crew: Sequence[Place]) -> None:
        """Grow or shrink the pool, one model actor at a time."""
        if self._leaving is not None:
            self._let_go(self._leaving)
            return
        now = time.monotonic()
        if self.pool.least == self.pool.most or now - self._looked < SCALE_SECONDS:
            return
        seen, count = self.served(), len(self.places.every)
        stretch = Stretch(
            count,
            now - self._looked,
            seen.batches - self._seen.batches,
            seen.busy - self._seen.busy,
            seen.waited - self._seen.waited,
        )
        self._looked, self._seen = now, seen
        if any(not p.is_ready or p.running for p in self.places.every):
            return  # it isn't what it will be
        wanted = scaling.target(self.pool.least, self.pool.most, stretch)
        if wanted > count and self._has_room():
            self.places.load(self.add())
        elif wanted < count:
            self._leaving = _Leaving(self.places.every[-1], [])
            self._leaving = replace(self._leaving, told=self.tell(crew))

    def _let_go(self, leaving: _Leaving) -> None:
        if leaving.drained is None:
            if not leaving.told or len(ray.wait(leaving.told, num_returns=len(leaving.told), timeout=0)[1]) == 0:
                self._leaving = replace(leaving, drained=leaving.place.actor.drained.remote())
        elif ray.wait([leaving.drained], timeout=0)[0]:
            self._former += leaving.place.served + leaving.place.progress.served
            self.places.remove(leaving.place)
            self._leaving = None

    def _has_room(self) -> bool:
        """Whether the cluster could place one more now, and a machine of the pool has the memory for it."""
        free, need = ray.available_resources(), self.places.need
        return bool(
            free.get("CPU", 0) >= self.pool.threads
            and free.get("GPU", 0) >= (self.pool.gpus or 0)
            and (need is None or any(room and fits(need, room) for _, room in self.places.rooms(ASK_SECONDS)))
        )

    def served(self) -> Served:
        """What they have done so far, all together."""
        served = sum((p.served + p.progress.served for p in self.places.every), self._former)
        return replace(served, actors=len(self.places.every))
