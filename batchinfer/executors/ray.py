"""Workers as Ray actors. The only module that imports Ray.

Actors run with `max_restarts=0, max_task_retries=0`: Ray's own retries count attempts inside the thing that dies. A dead actor
is replaced here, and what becomes of its shards is decided by the runner. Nothing durable lives in Ray: a worker reads its
shard from storage and writes its own results.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray
import ray.exceptions

from batchinfer.errors import BatchinferError, ClusterError, DeviceError, HungError
from batchinfer.executors.actor import Actor, Place
from batchinfer.executors.reach import HeadWatch, answers
from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker.context import Context, Failed, Failure, Outcome, Progress
from batchinfer.worker.process import ProcessId
from batchinfer.worker.worker import AHEAD

LOAD_SECONDS = 1800.0
"""How long workers may take to be placed and to load their model."""

_DEATHS = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
"""How a dead actor shows: one that Ray's memory monitor killed is no RayActorError."""


class _WorkerDiedError(ClusterError):
    """A worker's process ended in a call that has no shard."""


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
            _connect(context, workers, address)
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)
        self._lost = False
        try:
            self.workers = workers or _cluster_workers()
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
        place, former = self._places[0], None
        settings: Settings
        if not quarantined:
            try:
                (settings,) = self._get([place.actor.measure.remote(list(shards), None, False)])
            except (_WorkerDiedError, HungError, DeviceError):
                former = self._end(place)
                place.actor, place.process = self._actor(place.number)
            else:
                return settings
        (settings,) = self._get([place.actor.measure.remote(list(shards), former, True)])
        return settings

    def start(self, settings: Settings, *, quarantined: bool = False) -> None:
        """See Executor."""
        self._settings = settings
        self._get([place.actor.start.remote(settings, None, quarantined) for place in self._places])

    def _get(self, calls: list[Any]) -> list[Any]:
        with _translated():
            return list(ray.get(calls, timeout=LOAD_SECONDS))

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
        if self._head.is_gone():
            self._lost = True
            raise ClusterError(
                f"the head of the Ray cluster at {self._head.address} has gone: run the same command again when it is back"
            )
        with _translated():
            ready, _ = ray.wait(calls, num_returns=1, timeout=seconds)
            if ready:  # take in what else is there
                ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        outcomes: list[Outcome] = []
        now = time.monotonic()
        for place in self._places:
            if place.loading in ready:
                self._get([place.loading])  # a replacement that can't load ends the run: others would fail as well
                place.loading = None
            elif place.loading is not None and now - place.loading_at > LOAD_SECONDS:
                raise ClusterError(f"no replacement for worker {place.number} was ready after {LOAD_SECONDS:.0f} s")
            self._hear(place)
            if not self._stopped and (why := place.hangs(now)):
                outcomes += self._replace(place, why, Failure.HUNG)
            for call in [c for c in ready if c in place.running]:
                if call in place.running:
                    outcomes += self._outcomes(place, call)
        return outcomes

    def _outcomes(self, place: Place, call: Any) -> list[Outcome]:
        try:
            outcome: Outcome = ray.get(call)
        except _DEATHS as e:
            return self._replace(place, f"worker {place.number} died: {_first_line(e)}", Failure.DIED)
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
        former = self._end(place)
        place.running, place.asked, place.ahead = {}, None, 1
        if not self._stopped:
            place.actor, place.process = self._actor(place.number)
            place.loading_at = time.monotonic()
            place.progress = Progress(
                place.number, rows=place.progress.rows, dead=place.progress.dead, note="restarting"
            )
            place.loading = place.actor.start.remote(self._settings, former, False)
        return lost

    def _end(self, place: Place) -> ProcessId | None:
        """Kill a place's actor; its process, where that is known. Ray kills without waiting for the end."""
        former: ProcessId | None = None
        with contextlib.suppress(ray.exceptions.RayError):
            former = ray.get(place.process, timeout=1)
        with contextlib.suppress(Exception):
            ray.kill(place.actor)
        return former

    def progress(self) -> list[Progress]:
        """See Executor. Asks without waiting: an answer shows at the next call."""
        for place in self._places:
            self._hear(place)
            if place.asked is None:
                place.asked, place.asked_at = place.actor.progress.remote(), time.monotonic()
        return [place.progress for place in self._places]

    def _hear(self, place: Place) -> None:
        """Take the answer in, where there is one."""
        if place.asked is not None and ray.wait([place.asked], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):
                place.progress = ray.get(place.asked)
            place.asked = None

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


def _connect(context: Context, workers: int | None, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 leaves a model what every other process lets it have
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    with _translated(), _own_signals():
        if address is not None:
            if not answers(address):
                raise ClusterError(
                    f"no Ray cluster answers at {address}: is it running, and is this the address of its head?"
                )
            _join(address, quiet)
        else:
            cores = max(os.cpu_count() or 1, (workers or 1) * context.threads)
            # "local": else Ray joins whatever cluster it finds on this machine, or that RAY_ADDRESS names
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)


def _join(address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(address=address, **options)
    except (ray.exceptions.AuthenticationError, ConnectionError, RuntimeError) as e:
        raise ClusterError(
            f"the Ray cluster at {address} doesn't let this program in ({type(e).__name__}: {_first_line(e)}): where it asks for "
            "a token, as one begun by `ray start` does since Ray 2.60, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH here as there; else check that both run the same versions of Ray and Python"
        ) from e


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep whoever handles SIGTERM: Ray's own handler would end the process with 1, without draining."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _cluster_workers() -> int:
    resources = ray.cluster_resources()
    return int(resources.get("GPU", 0)) or len([n for n in ray.nodes() if n["Alive"]])


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Ray's errors as ours; what a worker raised keeps its own type."""
    try:
        yield
    except ray.exceptions.RayTaskError as e:
        cause = e.cause
        if isinstance(cause, BatchinferError):
            raise cause from None
        raise
    except ray.exceptions.GetTimeoutError as e:
        raise ClusterError(
            f"no worker was ready after {LOAD_SECONDS:.0f} s: does the cluster have the CPUs and GPUs that resources asks for?"
        ) from e
    except _DEATHS as e:
        raise _WorkerDiedError(f"a worker died while it loaded the model: {_first_line(e)}") from e
    except (ray.exceptions.RayError, ConnectionError) as e:
        raise ClusterError(f"Ray: {type(e).__name__}: {_first_line(e)}") from e


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
