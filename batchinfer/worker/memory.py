"""How much memory a worker's process takes with its model, and how much there is, as the system tells it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batchinfer.engines.device import gpu_memory
from batchinfer.ledger.host import boot_id


@dataclass(frozen=True)
class Need:
    """What a worker takes to load the model and keep it, in bytes, as that of the first one was measured."""

    process: int
    """Of the machine's memory, files that are mapped not counted."""
    peak: int
    """The most that it took until then, while it loaded and tried what there is to choose."""
    device: int | None = None
    """Of a GPU's memory; None without one."""

    @classmethod
    def of(cls, memory: Mapping[str, Any] | None, steps: Collection[str] | None = None) -> Need | None:
        """Of a process with the models of these steps (None: all), by the memory of a job's settings; None where that wasn't measured."""
        if memory is None:
            return None
        taken = [sizes for name, sizes in memory["steps"].items() if steps is None or name in steps]
        process = memory["process"] + sum(sizes["process"] for sizes in taken)
        device = sum(sizes["device"] for sizes in taken)
        return cls(process, max(process, memory["peak"]), device or None)


@dataclass(frozen=True)
class Held:
    """What this process holds, in bytes."""

    process: int
    device: int

    @classmethod
    def now(cls) -> Held | None:
        """None where the system doesn't tell."""
        anonymous = _status().get("RssAnon")
        return None if anonymous is None else cls(anonymous, gpu_memory(begin=False)[1])

    def since(self, before: Held) -> Held:
        """What came on top since then."""
        return Held(max(0, self.process - before.process), max(0, self.device - before.device))


class Growth:
    """What the process takes more of, from now on, as one model after the other is loaded and measured."""

    def __init__(self) -> None:
        self._begun = self._last = Held.now()
        self._before = 0
        self._steps: dict[str, Held] = {}

    def begin(self) -> None:
        """The first model comes now; until here it was what any of them needs."""
        now = Held.now()
        if now is not None and self._begun is not None:
            self._before, self._last = now.since(self._begun).process, now

    def add(self, step: str) -> None:
        """A step's model has come."""
        now = Held.now()
        if now is not None and self._last is not None:
            self._steps[step] = now.since(self._last)

    def go_on(self) -> None:
        """The next one comes now; what was there may have been let go of."""
        self._last = Held.now()

    def to_json(self) -> dict[str, Any] | None:
        """For the settings, see `Need.of`; None where the system doesn't tell. The peak is that of the process's whole life, so that it
        may be too high.
        """
        if self._begun is None:
            return None
        sizes = _status()
        peak = sizes["VmHWM"] - sizes.get("RssFile", 0) - sizes.get("RssShmem", 0) - self._begun.process
        steps = {name: asdict(held) for name, held in self._steps.items()}
        return {"process": self._before, "peak": max(0, peak), "steps": steps}


@dataclass(frozen=True)
class Room:
    """What is free where a worker's process is, in bytes."""

    machine: str
    """Told apart by its boot and its control group."""
    name: str
    """Of the machine, for people."""
    free: int | None
    """None where that can't be told."""
    device: str = ""
    """The GPU that the process has; empty without one."""
    device_free: int = 0
    loaded: bool = False
    """Whether the process has loaded the model."""


def room(gpus: float | None, *, loaded: bool) -> Room:
    """Of this process, which has a share of GPUs, or None for whatever device there is."""
    device, _, free = gpu_memory(begin=bool(gpus))
    return Room(f"{boot_id()} {_group()}", socket.gethostname(), free_bytes(), device, free, loaded)


def free_bytes() -> int | None:
    """Memory that processes may still take, on this machine and in this control group; None where that can't be told."""
    free = None
    with contextlib.suppress(OSError, ValueError, IndexError):
        free = _kibibytes(Path("/proc/meminfo").read_text())["MemAvailable"]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        bound, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        rest = max(0, bound - used + int(cached.get("inactive_file", 0)))
        free = rest if free is None else min(free, rest)
    return free


def peak_bytes() -> int:
    """The most of the machine's memory that this process took, mapped files counted; 0 where the system doesn't tell."""
    return _status().get("VmHWM", 0)


def _group() -> str:
    """The control group of this process."""
    with contextlib.suppress(OSError):
        return Path("/proc/self/cgroup").read_text().strip()
    return ""


def _status() -> dict[str, int]:
    """Sizes of this process in bytes, by the names that Linux has for them; empty elsewhere."""
    with contextlib.suppress(OSError):
        return _kibibytes(Path(f"/proc/{os.getpid()}/status").read_text())
    return {}


def _kibibytes(text: str) -> dict[str, int]:
    """The lines of a file of /proc that give sizes, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}
