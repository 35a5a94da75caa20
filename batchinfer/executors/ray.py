"""Workers as Ray actors.

Actors run with `max_restarts=0, max_task_retries=0`: Ray's own retries count attempts inside the thing that dies. A dead actor
is replaced here, and what becomes of its shards is decided by the runner. Nothing durable lives in Ray: a worker reads its
shard from storage and writes its own results.
"""

from __future__ import annotations

import atexit
import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
import ray.exceptions

from batchinfer.errors import ClusterError, DeviceError, HungError, ModelError
from batchinfer.executors import cluster
from batchinfer.executors.actor import Actor, Place
from batchinfer.executors.cluster import DEATHS, WorkerDiedError, first_line, translated
from batchinfer.executors.reach import HeadWatch
from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker.context import Context, Failed, Failure, Outcome, Progress
from batchinfer.worker.process import ProcessId
from batchinfer.worker.worker import AHEAD

LOAD_SECONDS = 3600.0
"""How long a worker may take to be placed and to load its model, in a child process first where one died of it."""
_LOOK_SECONDS = 1.0


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
        self._context = context
        self._started = not ray.is_initialized()
        self._places: list[Place] = []
        self._settings: Settings | None = None
        self._stopped = False
        if self._started:
            cluster.connect(address, (workers or 1) * context.threads)
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)
        self._lost = False
        try:
            self.workers = workers or cluster.worker_count()
            self._places += [Place(n, *self._actor(n), Progress(n, note="starting")) for n in range(self.workers)]
        except BaseException:
            self.close()  # a Ray of our own must not outlive us
            raise

    def _actor(self, number: int) -> tuple[Any, Any]:
        """A new actor, and the call that tells its process."""
        options = {
            "num_cpus": self._context.threads,
            "num_gpus": self._context.gpus or 0,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": AHEAD + 2,
        }
        actor = ray.remote(Actor).options(**options).remote(self._context, number)
        return actor, actor.process.remote()

    def measure(self, shards: Sequence[Shard], *, quarantined: bool = False) -> Settings:
        """See Executor."""
        place = self._places[0]
        if not quarantined:
            try:
                return self._measured(place, shards, quarantined=False)
            except (WorkerDiedError, HungError, DeviceError):
                self._renew(place)
        return self._measured(place, shards, quarantined=True)

    def _measured(self, place: Place, shards: Sequence[Shard], *, quarantined: bool) -> Settings:
        call = place.actor.measure.remote(list(shards), place.former, quarantined)
        end = time.monotonic() + LOAD_SECONDS
        while not self._ready([call], _LOOK_SECONDS):
            if time.monotonic() > end:
                raise self._late(place)
        with translated():
            settings: Settings = ray.get(call)
        return settings

    def start(self, settings: Settings, *, quarantined: bool = False) -> None:
        """See Executor."""
        self._settings = settings
        for place in self._places:
            self._load(place, quarantined=quarantined)
        while any(place.loading is not None for place in self._places):
            self.wait(_LOOK_SECONDS)

    def _load(self, place: Place, *, quarantined: bool = False) -> None:
        """Have the worker in a place load the model; in a child process first, where the one before died of it."""
        place.loading = place.actor.start.remote(self._settings, place.former, quarantined, place.deaths > 0)
        place.loading_at = time.monotonic()

    def wants(self) -> int:
        """See Executor."""
        return sum(place.room for place in self._places)

    def submit(self, shard: Shard, *, quarantined: bool = False) -> None:
        """See Executor."""
        place = max(self._places, key=lambda p: p.room)
        place.running[place.actor.run.remote(shard, quarantined)] = shard

    def wait(self, seconds: float) -> list[Outcome]:
        """See Executor."""
        calls = [call for place in self._places for call in (*place.running, place.loading) if call is not None]
        if not calls:
            return []
        ready = self._ready(calls, seconds)
        outcomes: list[Outcome] = []
        for place in self._places:
            self._look_at_loading(place, ready)
            self._hear(place)
            if not self._stopped and (why := place.hangs(time.monotonic())):
                outcomes += self._replace(place, why, Failure.HUNG)
            for call in [c for c in ready if c in place.running]:
                if call in place.running:
                    outcomes += self._outcomes(place, call)
        return outcomes

    def _ready(self, calls: list[Any], seconds: float) -> list[Any]:
        """Those calls that have ended, waiting for the first. Raises ClusterError where the head has gone."""
        if self._head.is_gone():
            raise self._headless()
        with translated():
            ready: list[Any] = ray.wait(calls, num_returns=1, timeout=seconds)[0]
            if ready:  # take in what else is there
                ready = ray.wait(calls, num_returns=len(calls), timeout=0)[0]
        return ready

    def _headless(self) -> ClusterError:
        self._lost = True
        return ClusterError(
            f"the head of the Ray cluster at {self._head.address} has gone: run the same command again when it is back"
        )

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
        if self._stopped:
            return
        self._renew(place)
        if place.deaths > max(1, self._context.spec.retry.max_retries):
            step = self._context.spec.steps[0]
            raise ModelError(
                f"{step.name}.uri: {step.uri} can't be loaded by a worker, though it could in a process of its own: {place.deaths} "
                f"workers ended as they loaded it, one after the other, the last with: {error}. Look at the memory of their machines, "
                "and at what else ends processes there"
            )
        self._load(place)

    def _outcomes(self, place: Place, call: Any) -> list[Outcome]:
        try:
            outcome: Outcome = ray.get(call)
        except DEATHS as e:
            return self._replace(place, f"worker {place.number} died: {first_line(e)}", Failure.DIED)
        except ray.exceptions.RayError as e:
            shard = place.running.pop(call)
            return [Failed(shard.number, Failure.UNEXPECTED, f"{type(e).__name__}: {e}")]
        del place.running[call]
        # What was asked before is out of date.
        place.progress, place.asked = replace(place.progress, in_hand=0, overdue=None), None
        if isinstance(outcome, Failed) and outcome.failure is Failure.POISONED:
            return [*self._replace(place, outcome.error, Failure.LOST), outcome]
        return [outcome]

    def _replace(self, place: Place, error: str, kind: Failure) -> list[Outcome]:
        """A worker's shards as failed, and a new worker in its place.

        `kind` is for the shard that is to blame: the only one, or the one whose call hangs; others are lost.
        """
        numbers = [
            shard.number for shard in reversed(place.running.values())
        ]  # put back one by one, they keep their order
        blamed = numbers if len(numbers) == 1 else []
        if kind is Failure.HUNG:
            blamed = [place.progress.shard] if place.progress.shard in numbers else numbers
        lost: list[Outcome] = [Failed(n, kind if n in blamed else Failure.LOST, error) for n in numbers]
        place.running, place.ahead = {}, 1
        if self._stopped:
            self._end(place)
        else:
            self._renew(place)
            self._load(place)
        return lost

    def _renew(self, place: Place) -> None:
        """Kill a place's actor and put a new one there, which begins once the former's process is gone."""
        place.former = self._end(place) or place.former
        place.actor, place.process = self._actor(place.number)
        place.asked = None
        done = place.progress
        place.progress = Progress(place.number, rows=done.rows, dead=done.dead, note="restarting")

    def _end(self, place: Place) -> ProcessId | None:
        """Kill a place's actor; its process, where that is known. Ray kills without waiting for the end.

        Raises ClusterError where the head has gone: asking it for a replacement would never end.
        """
        if not self._head.comes_back():
            raise self._headless()
        former: ProcessId | None = None
        with contextlib.suppress(ray.exceptions.RayError):
            former = ray.get(place.process, timeout=1)
        with contextlib.suppress(Exception):
            ray.kill(place.actor)
        return former

    def progress(self) -> list[Progress]:
        """See Executor: as the workers last said."""
        return [place.progress for place in self._places]

    def _hear(self, place: Place) -> None:
        """Take in what a worker says of itself, and ask it again, without waiting: its silence tells as well."""
        if place.asked is not None and ray.wait([place.asked], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):
                place.progress = ray.get(place.asked)
            place.asked = None
        if place.asked is None:
            place.asked, place.asked_at = place.actor.progress.remote(), time.monotonic()

    def stop(self) -> None:
        """See Executor."""
        self._stopped = True
        for place in self._places:
            place.actor.stop.remote()

    def close(self) -> None:
        """See Executor."""
        if self._lost:
            # Whatever asks the head now waits for it, and is ended by Ray after a minute, at the program's end too.
            atexit.unregister(ray.shutdown)
            return
        for place in self._places:
            with contextlib.suppress(Exception):
                ray.kill(place.actor)
        if self._started:
            ray.shutdown()
