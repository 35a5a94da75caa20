"""The actors of one kind, each in its place: loaded, watched, and replaced where they die or hang."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace as with_
from typing import Any

import ray
import ray.exceptions

from batchinfer.errors import ClusterError, DeviceError, HungError, ModelError, StoppedError
from batchinfer.executors.actor import Actor, Place
from batchinfer.executors.admission import Candidate
from batchinfer.executors.cluster import DEATHS, Cluster, WorkerDiedError, first_line, translated
from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker.context import Context, Failed, Failure, Outcome, Progress
from batchinfer.worker.memory import Need, Room
from batchinfer.worker.process import ProcessId

LOAD_SECONDS = 3600.0
"""How long a worker may take to be placed and to load its model, in a child process first where one died of it."""
LOOK_SECONDS = 1.0


class Places:
    """Places on a cluster.

    Args:
        cluster: where the actors run.
        context: theirs; `context.threads` and `context.gpus` are each one's share.
        concurrency: calls that an actor answers at once.
        kind: of actor.
        made_with: what it is made with besides.
        more: what `start` is given besides, when it is called.
        steps: whose models it loads; None for all.
        holds_model: whether a broken device is the actor's that tells of it.

    """

    def __init__(
        self,
        cluster: Cluster,
        context: Context,
        concurrency: int,
        kind: type[Actor] = Actor,
        made_with: tuple[Any, ...] = (),
        more: Callable[[], tuple[Any, ...]] = tuple,
        steps: Collection[str] | None = None,
        *,
        holds_model: bool = True,
    ) -> None:
        self.every: list[Place] = []
        self.settings: Settings | None = None
        self.stopped = False
        self.guilty: dict[int, str] = {}
        """Shards of others with a batch in a call that hung, and what it did."""
        self._cluster, self._context, self._concurrency = cluster, context, concurrency
        self._kind, self._made_with, self._more = kind, made_with, more
        self._steps, self._holds_model = steps, holds_model
        self._at_once: Mapping[str, int] = {}
        """Workers that may load at a time, by machine; any number on one that isn't named."""
        self._beside: Sequence[Places] = [self]
        """Whose workers count among these."""

    def add(self, number: int) -> Place:
        """A new place, with an actor that has not loaded anything yet."""
        place = Place(number, *self._actor(number), Progress(number, note="starting"))
        self.every.append(place)
        return place

    def remove(self, place: Place) -> None:
        """Give a place up."""
        self.every.remove(place)
        self._end(place)

    @property
    def actors(self) -> list[Any]:
        """Those that hold the places now."""
        return [place.actor for place in self.every]

    @property
    def calls(self) -> list[Any]:
        """The calls to wait for."""
        return [call for place in self.every for call in (*place.running, place.loading) if call is not None]

    def measure(self, shards: Sequence[Shard], *, quarantined: bool = False) -> Settings:
        """See Executor."""
        place = self.every[0]
        if not quarantined:
            try:
                return self._measured(place, shards, quarantined=False)
            except (WorkerDiedError, HungError, DeviceError):
                self.renew(place)
        return self._measured(place, shards, quarantined=True)

    def _measured(self, place: Place, shards: Sequence[Shard], *, quarantined: bool) -> Settings:
        call = place.actor.measure.remote(list(shards), place.former, quarantined)
        end = time.monotonic() + LOAD_SECONDS
        while not self._cluster.ready([call], LOOK_SECONDS):
            self.go_on()
            if time.monotonic() > end:
                raise self._late(place)
        with translated():
            settings: Settings = ray.get(call)
        return settings

    def go_on(self) -> None:
        """Raise StoppedError where another thread has stopped the workers before they were ready."""
        if self.stopped:
            raise StoppedError("stopped before every worker had loaded the model")

    def run(self, place: Place, shard: Shard, *, quarantined: bool) -> None:
        """Give a shard to the worker in a place."""
        place.running[place.actor.run.remote(shard, quarantined)] = shard

    def look(self, ready: list[Any]) -> list[Outcome]:
        """Take in what has happened, given the calls that have ended: outcomes of shards."""
        outcomes: list[Outcome] = []
        for place in list(self.every):
            self._look_at_loading(place, ready)
            self._hear(place)
            if not self.stopped and (why := place.hangs(time.monotonic())):
                outcomes += self.replace(place, why, Failure.HUNG)
            for call in [c for c in ready if c in place.running]:
                if call in place.running:
                    outcomes += self._outcomes(place, call)
        self._load_next()
        return outcomes

    def _actor(self, number: int) -> tuple[Any, Any]:
        """A new actor, and the call that tells its process."""
        options = {
            "num_cpus": self._context.threads,
            "num_gpus": self._context.gpus or 0,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": self._concurrency,
        }
        actor = ray.remote(self._kind).options(**options).remote(self._context, number, *self._made_with)
        return actor, actor.process.remote()

    @property
    def need(self) -> Need | None:
        """The memory that each takes; None where it wasn't measured."""
        return None if self.settings is None else Need.of(self.settings.memory, self._steps)

    def candidates(self, key: str) -> list[Candidate]:
        """The workers as they ask for memory; `key` of the job file says how many there are. Raises ClusterError where one is silent."""
        if (need := self.need) is None:
            return []
        heard = self.rooms(LOAD_SECONDS)
        self.go_on()
        if silent := [place for place in self.every if all(place is not other for other, _ in heard)]:
            raise self._late(silent[0])
        rooms = [(place, room) for place, room in heard if room is not None]
        for place, room in rooms:
            place.machine = room.machine
        return [Candidate(need, room, key) for _, room in rooms]

    def load_all(self, at_once: Mapping[str, int], beside: Sequence[Places] = ()) -> None:
        """Have every worker load its models, as many at a time as may, by machine; `look` goes on with it.

        `beside`: others that load at the same time, under the same limits.
        """
        self._at_once, self._beside = at_once, [self, *beside]
        for place in self.every:
            place.waits = True
        self._load_next()

    def rooms(self, seconds: float) -> list[tuple[Place, Room | None]]:
        """What memory there is for each worker, of those that say so within this time; None for one that has ended."""
        calls = {place.actor.room.remote(): place for place in self.every}
        end = time.monotonic() + seconds
        rooms: list[tuple[Place, Room | None]] = []
        while calls and time.monotonic() < end and not self.stopped:
            for call in self._cluster.ready(list(calls), LOOK_SECONDS):
                place, room = calls.pop(call), None
                with contextlib.suppress(ray.exceptions.RayError):  # one that has ended is found by who asks it next
                    room = ray.get(call)
                rooms.append((place, room))
        return rooms

    def _load_next(self) -> None:
        for place in [place for place in self.every if place.waits and not self.stopped]:
            others = [p for places in self._beside for p in places.every]
            loading = sum(p.loading is not None and p.machine == place.machine for p in others)
            if loading < self._at_once.get(place.machine, len(others)):
                place.waits = False
                self.load(place)

    def load(self, place: Place, *, quarantined: bool = False) -> None:
        """Have the worker in a place load the model; in a child process first, where the one before died of it."""
        place.loading = place.actor.start.remote(
            self.settings, place.former, quarantined, place.deaths > 0, *self._more()
        )
        place.loading_at = time.monotonic()

    def _late(self, place: Place) -> ClusterError:
        return ClusterError(
            f"worker {place.number} was not ready after {LOAD_SECONDS:.0f} s: does the cluster have the CPUs and GPUs that "
            "resources asks for, and can the model be loaded in that time?"
        )

    def _look_at_loading(self, place: Place, ready: list[Any]) -> None:
        if place.loading in ready:
            call, place.loading = place.loading, None
            try:
                with translated():
                    ray.get(call)
            except (WorkerDiedError, HungError, DeviceError) as e:
                self._load_again(place, e)
            else:
                place.deaths, place.asked = 0, None  # what was asked while it loaded says nothing of it now
        elif place.loading is not None and time.monotonic() - place.loading_at > LOAD_SECONDS:
            raise self._late(place)

    def _load_again(self, place: Place, error: Exception) -> None:
        """A new worker where one ended as it loaded the model: it may have been ended by something else."""
        place.deaths += 1
        if self.stopped:
            return
        self.renew(place)
        if place.deaths > max(1, self._context.spec.retry.max_retries):
            told = ", ".join(
                f"{step.name}.uri: {step.uri}"
                for step in self._context.spec.models
                if self._steps is None or step.name in self._steps
            )
            raise ModelError(
                f"{told} can't be loaded by a worker, though it could in a process of its own: {place.deaths} "
                f"workers ended as they loaded it, one after the other, the last with: {error}. Look at the memory of their machines, "
                "and at what else ends processes there"
            )
        self.load(place)

    def _outcomes(self, place: Place, call: Any) -> list[Outcome]:
        try:
            outcome: Outcome = ray.get(call)
        except DEATHS as e:
            return self.replace(place, f"worker {place.number} died: {first_line(e)}", Failure.DIED)
        except ray.exceptions.RayError as e:
            shard = place.running.pop(call)
            return [Failed(shard.number, Failure.UNEXPECTED, f"{type(e).__name__}: {e}")]
        del place.running[call]
        # What was asked before is out of date.
        place.progress, place.asked = with_(place.progress, in_hand=0, overdue=None), None
        if isinstance(outcome, Failed) and outcome.failure is Failure.POISONED and self._holds_model:
            return [*self.replace(place, outcome.error, Failure.LOST), outcome]
        return [outcome]

    def replace(self, place: Place, error: str, kind: Failure) -> list[Outcome]:
        """A worker's shards as failed, and a new worker in its place.

        `kind` is for the shard that is to blame: the only one, or the one whose call hangs; others are lost.
        """
        numbers = [
            shard.number for shard in reversed(place.running.values())
        ]  # put back one by one, they keep their order
        blamed = numbers if len(numbers) == 1 else []
        if kind is Failure.HUNG:
            blamed = [place.progress.shard] if place.progress.shard in numbers else numbers
            if place.serving and not numbers and place.progress.shard is not None:
                self.guilty[place.progress.shard] = error
        lost: list[Outcome] = [Failed(n, kind if n in blamed else Failure.LOST, error) for n in numbers]
        place.running, place.ahead = {}, 1
        if self.stopped:
            self._end(place)
        else:
            self.renew(place)
            self.load(place)
        return lost

    def renew(self, place: Place) -> None:
        """Kill a place's actor and put a new one there, which begins once the former's process is gone."""
        place.former = self._end(place) or place.former
        place.actor, place.process = self._actor(place.number)
        place.asked, place.gone = None, ""
        place.incarnation += 1
        place.served += place.progress.served
        done = place.progress
        place.progress = Progress(place.number, rows=done.rows, dead=done.dead, note="restarting")

    def _end(self, place: Place) -> ProcessId | None:
        """Kill a place's actor; its process, where that is known. Ray kills without waiting for the end.

        Raises ClusterError where the head has gone: asking it for a replacement would never end.
        """
        self._cluster.insist()
        former: ProcessId | None = None
        with contextlib.suppress(ray.exceptions.RayError):
            former = ray.get(place.process, timeout=1)
        with contextlib.suppress(Exception):
            ray.kill(place.actor)
        return former

    def _hear(self, place: Place) -> None:
        """Take in what a worker says of itself, and ask it again, without waiting: its silence tells as well."""
        if place.asked is not None and ray.wait([place.asked], timeout=0)[0]:
            try:
                place.progress = ray.get(place.asked)
            except DEATHS as e:
                place.gone = first_line(e)
            except ray.exceptions.RayError:
                pass
            place.asked = None
        if place.asked is None:
            place.asked, place.asked_at = place.actor.progress.remote(), time.monotonic()

    def ask(self, seconds: float) -> None:
        """Have every worker say now how it is, and wait so long for it."""
        for place in self.every:
            place.asked = None
            self._hear(place)
        asked = [place.asked for place in self.every]
        ray.wait(asked, num_returns=len(asked), timeout=seconds)
        for place in self.every:
            self._hear(place)

    def stop(self) -> None:
        """See Executor."""
        self.stopped = True
        for place in self.every:
            place.actor.stop.remote()
