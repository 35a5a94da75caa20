"""The Ray that workers run on: joined or begun, and its errors in our words."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from batchinfer.errors import BatchinferError, ClusterError
from batchinfer.executors.reach import HeadWatch, answers

DEATHS = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
"""How a dead actor shows: one that Ray's memory monitor killed is no RayActorError."""


_SESSION = "session_2026-11-28_07-28-50_130705"
"""What Ray names the folder of a session like."""
_SOCKET_NAME = 107
"""Characters that the name of a socket may have."""


class WorkerDiedError(ClusterError):
    """A worker's process ended in a call that has no shard."""


def connect(address: str | None, cpus: int) -> None:
    """Join the cluster at an address; None begins one on this machine with so many CPUs at least, without a dashboard.

    Raises ClusterError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 leaves a model what every other process lets it have
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    with translated(), _own_signals():
        if address is None:
            _check_temporary_folder()
            with _quiet_about_tokens():
                # "local": else Ray joins whatever cluster it finds on this machine, or that RAY_ADDRESS names
                ray.init(address="local", num_cpus=max(os.cpu_count() or 1, cpus), include_dashboard=False, **quiet)
        elif answers(address):
            _join(address, quiet)
        else:
            raise ClusterError(
                f"no Ray cluster answers at {address}: is it running, and is this the address of its head?"
            )


def _check_temporary_folder() -> None:
    """Refuse where Ray's workers would end at their start, which `ray.init` waits for without an end and says nothing of, and where its
    sockets' names would be too long.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR")
    environment = os.environ.get("VIRTUAL_ENV")
    if folder and environment and Path(folder).resolve().is_relative_to(Path(environment).resolve()):
        raise ClusterError(
            f"Ray can't keep its files in {folder}, the temporary folder, as it lies in the virtual environment {environment}: "
            "set RAY_TMPDIR to a folder outside of it, such as /tmp, or set `resources.executor: inline`"
        )
    if folder and len(f"{folder}/ray/{_SESSION}_{os.getpid()}/sockets/plasma_store") > _SOCKET_NAME:
        raise ClusterError(
            f"Ray can't keep its sockets in {folder}, the temporary folder, as their names would have more than {_SOCKET_NAME} characters: "
            "set RAY_TMPDIR to a shorter one, such as /tmp, or set `resources.executor: inline`"
        )


def _join(address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(address=address, **options)
    except (ray.exceptions.AuthenticationError, ConnectionError, RuntimeError) as e:
        raise ClusterError(
            f"the Ray cluster at {address} doesn't let this program in ({type(e).__name__}: {first_line(e)}): where it asks for "
            "a token, as one begun by `ray start` does since Ray 2.60, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH here as there; else check that both run the same versions of Ray and Python"
        ) from e


@contextlib.contextmanager
def _quiet_about_tokens() -> Iterator[None]:
    """Ray tells on standard error that a cluster of this process lets nobody else in, which nobody asked."""
    logger = logging.getLogger("ray._private.authentication")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep whoever handles SIGTERM: Ray's own handler would end the process with 1, without draining."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def worker_count() -> int:
    """Workers that the cluster has a place for: one on each GPU, or one on each node of a cluster without."""
    resources = ray.cluster_resources()
    return int(resources.get("GPU", 0)) or len([n for n in ray.nodes() if n["Alive"]])


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Ray's errors as ours; what a worker raised keeps its own type."""
    try:
        yield
    except ray.exceptions.RayTaskError as e:
        cause = e.cause
        if isinstance(cause, BatchinferError):
            raise cause from None
        raise
    except DEATHS as e:
        raise WorkerDiedError(f"a worker died while it loaded the model: {first_line(e)}") from e
    except (ray.exceptions.RayError, ConnectionError) as e:
        raise ClusterError(f"Ray: {type(e).__name__}: {first_line(e)}") from e


def first_line(error: BaseException) -> str:
    """What an error says, without Ray's explanations."""
    return str(error).strip().partition("\n")[0]


class Cluster:
    """The Ray that an executor's actors run on.

    Args:
        address: of a running cluster; None begins one on this machine for this process, unless it has one.
        cpus: that one begun here has at least.

    Raises ClusterError.

    """

    def __init__(self, address: str | None, cpus: int) -> None:
        self._started, self._lost = not ray.is_initialized(), False
        if self._started:
            connect(address, cpus)
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)

    def ready(self, calls: list[Any], seconds: float) -> list[Any]:
        """Those calls that have ended, waiting for the first. Raises ClusterError where the head has gone."""
        if self._head.is_gone():
            raise self._headless()
        with translated():
            ready: list[Any] = ray.wait(calls, num_returns=1, timeout=seconds)[0]
            if ready:  # take in what else is there
                ready = ray.wait(calls, num_returns=len(calls), timeout=0)[0]
        return ready

    def insist(self) -> None:
        """Raise ClusterError where the head has gone: asking it for anything would never end."""
        if not self._head.comes_back():
            raise self._headless()

    def _headless(self) -> ClusterError:
        self._lost = True
        return ClusterError(
            f"the head of the Ray cluster at {self._head.address} has gone: run the same command again when it is back"
        )

    def close(self, actors: list[Any]) -> None:
        """Kill the actors, and end a Ray that was begun here."""
        if self._lost:
            # Whatever asks the head now waits for it, and is ended by Ray after a minute, at the program's end too.
            atexit.unregister(ray.shutdown)
            return
        for actor in actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)
        if self._started:
            ray.shutdown()
