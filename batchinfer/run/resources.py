"""How many workers, where, and what each gets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from batchinfer.engines.device import gpu_count
from batchinfer.engines.registry import uses_torch
from batchinfer.executors.protocol import Pool
from batchinfer.job.spec import JobSpec
from batchinfer.job.steps import Step
from batchinfer.measure.settings import Settings


@dataclass(frozen=True)
class Allotment:
    """What `resources` comes to on this machine."""

    executor: Literal["inline", "ray"]
    workers: int | None
    """None on a cluster that isn't asked yet: one for each GPU, or for each node."""
    threads: int
    """CPU threads of each worker."""
    gpus: float | None
    """GPUs of each worker; None for whatever device torch finds."""
    pools: Mapping[str, Pool] = field(default_factory=dict)
    """Of the steps that have one; the workers then prepare for them, and hold the models of the others."""

    def devices(self, workers: int, actors: Mapping[str, int]) -> float:
        """How many devices so many workers, and model actors by step, hold: what `resources.price_per_hour` is the price of.

        A device is a GPU. The processors beside it come with it, and so do workers that have none: they are no device of their own. In a
        run that is given no GPU a device is the place of a worker, or of a model actor.
        """
        gpus = workers * (self.gpus or 0) + sum(n * (self.pools[step].gpus or 0) for step, n in actors.items())
        return gpus or workers + sum(actors.values())


def allot(spec: JobSpec, pinned: Settings | None = None) -> Allotment:
    """Resolve the `auto` of `resources`: a worker for each GPU, else one; inline for one worker on this machine, else Ray.

    The threads that a job was begun with are kept where they fit this machine: results depend on them in the last bits.
    """
    asked, cores = spec.resources, cpu_count()
    if any(step.has_pool for step in spec.models):
        return _apart(spec, cores, pinned)
    device_count = gpu_count() if any(uses_torch(s) for s in spec.models) else 0
    workers: int | None = asked.workers if asked.workers != "auto" else None
    if workers is None and asked.address is None:
        workers = max(1, device_count) if asked.gpus != 0 else 1
    executor = asked.executor
    if executor == "auto":
        executor = "inline" if workers == 1 and asked.address is None else "ray"
    if executor == "inline":
        workers = 1
    threads = asked.cpus if asked.cpus != "auto" else max(1, cores // (workers or 1))
    if asked.cpus == "auto":
        threads = _standing(threads, cores, pinned, spec.models)
    gpus = asked.gpus if asked.gpus != "auto" else (1.0 if device_count else None)
    return Allotment(executor, workers, threads, gpus)


def _apart(spec: JobSpec, cores: int, pinned: Settings | None) -> Allotment:
    """Where steps have pools of their own: on this machine, their model actors come first, and the workers have what is left."""
    asked, local = spec.resources, spec.resources.address is None
    pooled, held = ([s for s in spec.models if s.has_pool is pools] for pools in (True, False))
    pools = {step.name: _pool(step, cores // len(pooled), cores, pinned, local=local) for step in pooled}
    devices = gpu_count() if any(uses_torch(s) for s in held) and asked.gpus != 0 else 0
    free = int(devices - sum(pool.most * (pool.gpus or 0) for pool in pools.values()))
    threads = asked.cpus if asked.cpus != "auto" else _standing(1, cores, pinned, held)
    gpus: float | None = asked.gpus if asked.gpus != "auto" else (1.0 if free > 0 else 0)
    workers: int | None = asked.workers if asked.workers != "auto" else None
    if workers is None and local:
        left = cores - sum(pool.most * pool.threads for pool in pools.values())
        workers = max(1, free if free > 0 else left // threads)
    return Allotment("ray", workers, threads, gpus, pools)


def _standing(threads: int, cores: int, pinned: Settings | None, steps: Iterable[Step]) -> int:
    """The threads that the steps were begun with, where this machine has so many."""
    begun = threads if pinned is None else pinned.threads(step.name for step in steps)
    return begun if begun <= cores else threads


def _pool(step: Step, share: int, cores: int, pinned: Settings | None, *, local: bool) -> Pool:
    """A step's pool, which may have so many of this machine's cores."""
    devices = gpu_count() if uses_torch(step) and step.gpus != 0 else 0
    asked = step.workers if step.workers is not None else max(1, devices)
    least, most = (asked, asked) if isinstance(asked, int) else asked
    gpus = step.gpus if step.gpus is not None else (1.0 if devices else None)
    threads = step.cpus or _standing(max(1, share // most) if local and not gpus else 1, cores, pinned, [step])
    return Pool(least, most, threads, gpus)


def cpu_count() -> int:
    """CPUs that this process may use: its affinity, and its control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return count
