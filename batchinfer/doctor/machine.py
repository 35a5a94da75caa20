"""Python, processor, memory and disks of this machine, as this process may use them."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from batchinfer.doctor.finding import Finding, State
from batchinfer.plan.describe import count, size
from batchinfer.precision import processor
from batchinfer.precision.artefacts import cache_folder
from batchinfer.run.resources import cpu_count
from batchinfer.worker.memory import free_bytes

LITTLE = 2 * 1024**3
"""Bytes; below it a disk is soon full."""
SHARED_LITTLE = 1024**3
SHARED = Path("/dev/shm")  # noqa: S108 - where Ray keeps objects
_VECTORS = (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("asimd", "NEON"), ("sve", "SVE"))
_BF16 = (("amx_bf16", "AMX bf16"), ("avx512_bf16", "AVX-512 bf16"), ("bf16", "bf16"))
_INT8 = (("amx_int8", "AMX int8"), ("avx512_vnni", "VNNI"), ("avx_vnni", "AVX VNNI"), ("i8mm", "i8mm"))


def software() -> Iterator[Finding]:
    """System and Python."""
    yield Finding("system", State.FINE, f"{platform.system()} {platform.release()} on {platform.machine()}")
    yield Finding("python", State.FINE, f"{platform.python_version()} ({sys.executable})")


def processors() -> Iterator[Finding]:
    """Cores and instructions."""
    cores, there = cpu_count(), os.cpu_count() or 1
    of = f" of {there}: affinity or control group allow no more" if cores < there else ""
    name = processor.name() or platform.processor() or platform.machine()
    yield Finding("cpu", State.FINE, f"{name}, {count(cores, 'core')}{of}")
    yield instructions(processor.flags())


def instructions(flags: Collection[str]) -> Finding:
    """Which of a processor's instructions matter, by Linux's names, and the precisions that they make fast."""
    if not flags:
        return Finding("instructions", State.UNKNOWN, "this system doesn't tell what the processor can do")
    halves, bytes_ = ([label for flag, label in kind if flag in flags] for kind in (_BF16, _INT8))
    known = [label for flag, label in _VECTORS if flag in flags] + halves + bytes_
    fast = [*(["bf16"] if halves else []), *(["int8"] if bytes_ else [])]
    verdict = (
        f"{' and '.join(fast)} {'are' if len(fast) > 1 else 'is'} fast"
        if fast
        else "none for bf16 or int8, and fp32 may be as fast"
    )
    return Finding("instructions", State.FINE, f"{', '.join(known) or 'none that matter'}: {verdict}")


def memory() -> Iterator[Finding]:
    """What processes may take."""
    free, limit, total = free_bytes(), _limit(), _total()
    if free is None:
        yield Finding("memory", State.UNKNOWN, "this system doesn't tell how much there is")
        return
    bounded = limit is not None and (total is None or limit < total)
    of = limit if bounded else total
    whole = "" if of is None else f" of {size(of)}{' that the control group allows' if bounded else ''}"
    yield Finding("memory", State.WARNING if free < LITTLE else State.FINE, f"{size(free)} free{whole}")


def _limit() -> int | None:
    """Bytes that the control group may have; None without a bound."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return None


def _total() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def disks() -> Iterator[Finding]:
    """The folders that fill up: the temporary one and the cache."""
    yield disk("temporary", Path(tempfile.gettempdir()), "have TMPDIR name a folder with more")
    yield disk("cache", cache_folder(), "have BATCHINFER_CACHE name a folder that can be written and has room")


def disk(topic: str, folder: Path, advice: str, little: int = LITTLE) -> Finding:
    """What is free where a folder is, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(topic, State.WARNING, f"{folder}: {there} can't be written", advice)
    usage = shutil.disk_usage(there)
    text = f"{folder}: {size(usage.free)} free of {size(usage.total)}"
    return Finding(topic, State.WARNING, text, advice) if usage.free < little else Finding(topic, State.FINE, text)
