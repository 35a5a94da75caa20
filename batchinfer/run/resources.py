"""How many workers, where, and what each gets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from batchinfer.engines.device import gpu_count
from batchinfer.engines.registry import uses_torch
from batchinfer.executors.protocol import Pool
from batchinfer.job.spec import JobSpec
from batchinfer.job.steps import Step


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
    pool: Pool | None = None
    """Of a step that has one; the workers then prepare for it, and hold no device."""


def allot(spec: JobSpec, pinned_threads: int | None = None) -> Allotment:
    """Resolve the `auto` of `resources`: a worker for each GPU, else one; inline for one worker on this machine, else Ray.

    The threads that a job was begun with are kept where they fit this machine: results depend on them in the last bits.
    """
    asked, cores = spec.resources, cpu_count()
    if (pooled := next((s for s in spec.models if s.has_pool), None)) is not None:
        return _apart(spec, pooled, cores, pinned_threads)
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
    if asked.cpus == "auto" and pinned_threads is not None and pinned_threads <= cores:
        threads = pinned_threads
    gpus = asked.gpus if asked.gpus != "auto" else (1.0 if device_count else None)
    return Allotment(executor, workers, threads, gpus)


def _apart(spec: JobSpec, step: Step, cores: int, pinned_threads: int | None) -> Allotment:
    """Where the step has a pool of its own: on this machine, its model actors' threads first, and the other cores prepare."""
    asked, pool = spec.resources, _pool(step, cores, pinned_threads, local=spec.resources.address is None)
    threads = asked.cpus if asked.cpus != "auto" else 1
    workers: int | None = asked.workers if asked.workers != "auto" else None
    if workers is None and asked.address is None:
        workers = max(1, (cores - pool.most * pool.threads) // threads)
    return Allotment("ray", workers, threads, 0, pool)


def _pool(step: Step, cores: int, pinned_threads: int | None, *, local: bool) -> Pool:
    devices = gpu_count() if uses_torch(step) and step.gpus != 0 else 0
    asked = step.workers if step.workers is not None else max(1, devices)
    least, most = (asked, asked) if isinstance(asked, int) else asked
    gpus = step.gpus if step.gpus is not None else (1.0 if devices else None)
    threads = step.cpus or (max(1, cores // most) if local and not gpus else 1)
    if step.cpus is None and pinned_threads is not None and pinned_threads <= cores:
        threads = pinned_threads
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
