"""The process in which a suspected shard's model runs; `quarantine` starts it.

It answers one request at a time, so that its parent knows which rows were in hand when it dies. Whatever it prints goes to
standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchinfer.engines import faults, registry
from batchinfer.engines.faults import Fault
from batchinfer.engines.protocol import Description
from batchinfer.errors import BatchinferError
from batchinfer.job.secrets import Secrets
from batchinfer.job.steps import Step
from batchinfer.storage.store import StorageOptions
from batchinfer.worker import logs, process
from batchinfer.worker.failures import Raised, row_error
from batchinfer.worker.memory import free_bytes

_PARENT_DIED = 1  # PR_SET_PDEATHSIG
_SHARE = 0.9
"""Of the memory that is left on the machine, for the child on a CPU."""


@dataclass(frozen=True)
class Start:
    """What the child is told first."""

    step: Step
    code: tuple[str, ...]
    device: str
    threads: int
    secrets: Secrets
    storage: StorageOptions


class _Served:
    """The requests, by name."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._engine = registry.open_engine(start.step, start.code, start.storage)

    def load(self, precision: str) -> Description:
        from batchinfer.measure.timing import load

        start = self._start
        return load(self._engine, start.step, start.device, precision, start.threads)

    def prepare(self, rows: pa.Table) -> tuple[Any, Any, Any]:
        prepared = self._engine.prepare(rows)
        return prepared.lengths, prepared.truncated, prepared.row_bytes

    def infer(self, rows: pa.Table) -> dict[str, pa.Array]:
        batch = self._engine.prepare(rows).batch(slice(0, len(rows)))
        return dict(self._engine.finish(self._engine.infer(batch)))


def main() -> None:
    """Serve requests until the parent closes the connection."""
    connection = Connection(int(sys.argv[1]))
    start: Start = connection.recv()
    settle(start.threads, bounded=start.device == "cpu")
    logs.begin(start.secrets)
    with start.secrets.kept(), contextlib.suppress(EOFError):
        served = _Served(start)
        while True:
            name, argument = connection.recv()
            answer = _answer(getattr(served, name), argument)
            if isinstance(answer, Raised) and answer.fault is Fault.MEMORY:
                faults.free_memory()
            connection.send(answer)


def _answer(request: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return request(argument)
    except BatchinferError as e:
        return Raised(e)
    except BaseException as e:  # noqa: BLE001 - a model may raise anything, and what it raises is the row's error
        return Raised(row_error(e, attempts=1), faults.fault_of(e))


def settle(threads: int, *, bounded: bool) -> None:
    """Die with the parent, before anything else of it when memory is short, and without a core file.

    `bounded`: its data may grow into what is free; a device's driver reserves far more than it uses, and is left alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if bounded and (free := free_bytes()) is not None:
        bound_memory(int(free * _SHARE))
    process.settle(threads, own=True)


def bound_memory(size: int) -> None:
    """Let this process have no more than `size` bytes of data, unless it is bounded more tightly already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or size < soft:
        resource.setrlimit(resource.RLIMIT_DATA, (size, hard))
