"""The machine that a runner is on: its time, its threads and its processes. All that the ledger takes from there stands here."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_JOIN_SECONDS = 2.0


class Host:
    """This machine. Another one may be given in its place, such as a simulated one."""

    def monotonic(self) -> float:
        """Seconds since some moment, never going back."""
        return time.monotonic()

    def now(self) -> datetime:
        """The time of day, which may be set wrong."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def threads(self, count: int, name: str) -> Executor:
        """A pool for short jobs beside the caller."""
        return ThreadPoolExecutor(count, thread_name_prefix=name)

    def every(self, seconds: float, action: Callable[[], bool], name: str) -> Callable[[], None]:
        """Call `action` every `seconds`, beside the caller, until it gives False or the returned function is called."""
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(seconds) and action():
                pass

        thread = threading.Thread(target=go_on, name=name, daemon=True)
        thread.start()

        def end() -> None:
            ended.set()
            thread.join(_JOIN_SECONDS)  # an action that the store holds up changes nothing about the end

        return end

    def within(self, seconds: float, action: Callable[[], None], name: str) -> None:
        """Call `action`, and go on after `seconds` also where it hasn't ended."""
        thread = threading.Thread(target=action, name=name, daemon=True)
        thread.start()
        thread.join(seconds)

    def identity(self) -> dict[str, Any]:
        """Who this process is: host, boot, process and its start, versions of what runs."""
        return {
            "host": platform.node(),
            "boot": boot_id(),
            "pid_namespace": pid_namespace(),
            "pid": os.getpid(),
            "process_start": _start(os.getpid()),
            "python": platform.python_version(),
            "versions": {name: _version(name) for name in ("batchinfer", "pyarrow", "polars", "torch", "ray")},
        }

    def seen(self, record: dict[str, Any]) -> str:
        """What this machine knows of a recorded process of its own boot, so that nobody waits for a heartbeat: `alive` or `dead`.

        `unknown` for another machine's or container's process, for one that is stopped (SIGSTOP): it may wake up, but is not worth
        waiting for longer than its heartbeat says; and for this very process, such as a notebook's, which may have ended a run before
        without being able to record it.
        """
        boot = boot_id()
        if (
            boot is None
            or record.get("boot") != boot
            or record.get("host") != platform.node()
            or not record.get("process_start")
            or record.get("pid_namespace", pid_namespace()) != pid_namespace()
        ):
            return "unknown"
        process = process_state(int(record["pid"]))
        if process is None or process[1] != record["process_start"] or process[0] in "ZX":
            return "dead"
        return "unknown" if process[0] in "Tt" or int(record["pid"]) == os.getpid() else "alive"


HERE = Host()
"""The machine that this process is on."""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def boot_id() -> str | None:
    """Of this machine since it was last started; None where there is no /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def process_state(pid: int) -> tuple[str, str] | None:
    """State letter and start in clock ticks since boot of a process (fields 3 and 22 of /proc/<pid>/stat); None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def _start(pid: int) -> str | None:
    process = process_state(pid)
    return process[1] if process else None


def pid_namespace() -> str | None:
    """In which this process's number counts: containers of one host share its boot, and with a host network its name. None without /proc."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None
