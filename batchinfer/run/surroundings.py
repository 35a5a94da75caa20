"""What a run takes from the world around it, in one place, so that it can run in another world, such as a simulated one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchinfer.executors.protocol import Executor
from batchinfer.job.spec import JobSpec
from batchinfer.ledger.host import HERE, Host
from batchinfer.run.resources import Allotment
from batchinfer.storage import paths
from batchinfer.storage.store import Store, open_store
from batchinfer.worker.context import Context


def open_output(spec: JobSpec) -> Store:
    """The store that a job writes to."""
    return open_store(spec.output.path, spec.storage, scratch=paths.SCRATCH)


def open_executor(allotment: Allotment, context: Context) -> Executor:
    """Workers as `resources` has them."""
    if allotment.executor == "inline":
        from batchinfer.executors.inline import InlineExecutor

        return InlineExecutor(context)
    if allotment.pools:
        from batchinfer.executors.pool import PoolExecutor

        return PoolExecutor(context, allotment.workers, allotment.pools, context.spec.resources.address)
    from batchinfer.executors.ray import RayExecutor

    return RayExecutor(context, allotment.workers, context.spec.resources.address)


@dataclass(frozen=True)
class Surroundings:
    """The machine, the storage and the workers."""

    host: Host = HERE
    open_store: Callable[[JobSpec], Store] = open_output
    open_executor: Callable[[Allotment, Context], Executor] = open_executor


USUAL = Surroundings()
"""This machine and what it reaches."""
