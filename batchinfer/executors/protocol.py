"""What an executor is: it moves shards to workers and outcomes back. What to do about a failure is decided above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from batchinfer.measure.settings import Settings
from batchinfer.plan.shards import Shard
from batchinfer.worker.context import Outcome, Progress, Served, Share


@dataclass(frozen=True)
class Pool:
    """The model actors that a step has of its own."""

    least: int
    most: int
    threads: int
    """CPU threads of each."""
    gpus: float | None
    """GPUs of each; None for whatever device torch finds."""

    @property
    def share(self) -> Share:
        """What each has."""
        return Share(self.threads, self.gpus)


class Executor(Protocol):
    """Workers, wherever they run. The calls come in this order: measure (for a job without settings), start, then the others."""

    name: str
    """`inline` or `ray`."""
    workers: int

    def measure(self, shards: Sequence[Shard], *, quarantined: bool = False) -> Settings:
        """Let one worker load the model and settle what the job leaves open. Raises ModelError, ClusterError, StoppedError.

        A model that ends what loads it is a ModelError too, here, in `start`, and in `wait` where a replacement loads it.

        `quarantined`: in a child process of the worker, since one of the first rows may have ended a process before.
        """

    def start(self, settings: Settings, *, quarantined: bool = False) -> None:
        """Have the model loaded in every worker, unless the first shards will be in quarantine.

        Raises ModelError, ClusterError, StoppedError, and ResourceError where there is no memory for so many, before any of them has loaded it.
        """

    def wants(self) -> int:
        """How many shards it would take now, so that no worker waits for the next one."""

    def submit(self, shard: Shard, *, quarantined: bool = False) -> None:
        """Give a shard to a worker; one in quarantine has its model in a child process of the worker."""

    def wait(self, seconds: float) -> list[Outcome]:
        """Outcomes that have come in, waiting up to `seconds` for the first. One for each submitted shard, whatever happens.

        A worker that died gives `Failure.DIED` for its shard, or `Failure.LOST` for each where it had several; it is replaced,
        and the replacement gets one shard at a time, so that the next death names the shard. One whose call takes too long is
        ended and replaced like it, with `Failure.HUNG` for the shard in that call; one that answers `Failure.POISONED` is
        replaced too. Raises ClusterError when no replacement can be had.
        """

    def progress(self) -> list[Progress]:
        """What each worker is doing."""

    def served(self) -> Mapping[str, Served]:
        """By step with a pool of its own, what its model actors have done so far, all together and as they last said."""

    def stop(self) -> None:
        """Let the workers checkpoint and give their shards back as stopped.

        Another thread may call it while `measure` or `start` goes on: these then end as soon as they can, with StoppedError where something
        was left to do.
        """

    def close(self) -> None:
        """Let go of workers and models."""
