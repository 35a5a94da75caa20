"""A worker's process: the thread counts of its libraries, and whether one that was ended is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass

from batchinfer.ledger.host import boot_id, pid_namespace, process_state


def settle(threads: int, *, own: bool) -> None:
    """Settle what the numeric libraries read from the environment when they are loaded; call it before they are.

    OpenMP's threads wait for each other by spinning, unless told otherwise. As soon as anything else wants a core (reading,
    writing, another program), a spinning team holds up the thread that it waits for: on two cores a loop over a small network
    was measured 3 to 4 times slower beside other work. Where many short loops follow each other, as in a transformer, a sleep
    between each two costs as well, so they spin for some 50 microseconds first. Twenty times as long cost the small network 12 to
    17 percent and won a transformer 0 to 6 (two interleaved rounds each, two cores).

    Args:
        threads: of the worker.
        own: the process is the worker's alone, so that the counts of all libraries can be set; else only what is unset and
            concerns waiting is touched. A framework's own thread count is set when the model is loaded.

    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if own:
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS"):
            os.environ[variable] = str(threads)
        import pyarrow as pa

        pa.set_cpu_count(threads)


@dataclass(frozen=True)
class ProcessId:
    """A process of one machine, told from any other that gets its number later."""

    machine: str
    """Its boot, and the name space of its numbers."""
    pid: int
    started: str
    """Clock ticks since boot."""


def this_process() -> ProcessId | None:
    """Who we are; None where there is no /proc."""
    pid = os.getpid()
    state = process_state(pid)
    return None if state is None else ProcessId(_machine(), pid, state[1])


def make_sure_it_ended(former: ProcessId, seconds: float) -> bool:
    """End a process of this machine and wait until it is gone, with its memory and its device; False if it still isn't.

    Nothing to do for a process of another machine.
    """
    end = time.monotonic() + seconds
    while former.machine == _machine() and (state := process_state(former.pid)) is not None:
        if state[1] != former.started or state[0] in "ZX":
            return True
        if time.monotonic() > end:
            return False
        with contextlib.suppress(OSError):
            os.kill(former.pid, signal.SIGKILL)
        time.sleep(0.1)
    return True


def _machine() -> str:
    return f"{boot_id()} {pid_namespace()}"
