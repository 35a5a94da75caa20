"""An engine whose model runs in a child process: what ends that process ends nothing else, and the rows in hand are known.

The rest of the worker sees an engine that raises. A call that its process dies in, or that takes too long, raises like a call
that the model raised in, so that bisection finds the row either way. Calls go out one at a time and are answered before the
next: the call without an answer is the journal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.faults import Fault
from batchinfer.engines.protocol import Description, Rows
from batchinfer.errors import ModelError, StoppedError
from batchinfer.job.secrets import Secrets
from batchinfer.job.spec import Retry
from batchinfer.job.steps import Step
from batchinfer.storage.store import StorageOptions
from batchinfer.worker.child import Start
from batchinfer.worker.context import RowError
from batchinfer.worker.failures import Raised, RowFailure, failure_of
from batchinfer.worker.pace import UNKNOWN_SECONDS, Paces

_PROGRAM = "from batchinfer.worker.child import main; main()"  # by -m, what it sends would be of a module __main__
_LOOK_SECONDS = 0.1
_END_SECONDS = 10.0
_FIRST_SECONDS = 3.0
"""More for the first call of a process: libraries are loaded by it."""


class _QuarantinedRows:
    """See Prepared. Batches are rows; the child prepares them."""

    def __init__(
        self,
        table: pa.Table,
        lengths: NDArray[np.int64] | None,
        truncated: NDArray[np.bool_] | None,
        row_bytes: int | None,
    ) -> None:
        self._table, self.lengths, self.truncated, self.row_bytes = table, lengths, truncated, row_bytes

    def __len__(self) -> int:
        return len(self._table)

    def batch(self, rows: Rows) -> pa.Table:
        return self._table.take(pa.array(np.arange(len(self))[rows]))


class Quarantine:
    """An engine (see Engine) in a child process, which is started when it is needed and again after it has died.

    Args:
        step: the model.
        code: folders that `module:Class` may be imported from.
        device: where the model runs.
        retry: how long a call may take, and how often the child is started again where something else ended it as it loaded.
        stopping: when set, a call ends the child and raises StoppedError.
        secrets: what the child may not log.
        storage: fsspec options by URL prefix.

    """

    def __init__(
        self,
        step: Step,
        code: tuple[str, ...],
        device: str,
        retry: Retry,
        stopping: threading.Event,
        secrets: Secrets,
        storage: StorageOptions | None = None,
    ) -> None:
        self._storage = storage or {}
        self._step, self._code, self._device, self._secrets = step, code, device, secrets
        self._retries, self._stopping = retry.max_retries, stopping
        self.paces = Paces(retry.timeout)
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._precision, self._threads = "native", 1
        self.ended = 0
        """Calls that a process ended in, or had to be ended for."""

    def use(self, precision: str, threads: int) -> None:
        """Load the model like this when it is needed."""
        if (precision, threads) != (self._precision, self._threads):
            self.close()
        self._precision, self._threads = precision, threads

    def load(self, device: str, precision: str, threads: int) -> Description:  # noqa: ARG002 - it has its own
        """See Engine. Raises ModelError also where the process dies of it."""
        self.close()
        self._precision, self._threads = precision, threads
        with self._lock:
            self._child, description = self._started()
        return description

    def prepare(self, rows: pa.Table) -> _QuarantinedRows:
        """See Engine."""
        return _QuarantinedRows(rows, *self._ask("prepare", rows))

    def infer(self, batch: pa.Table) -> Mapping[str, pa.Array]:
        """See Engine. Raises RowFailure."""
        outputs: Mapping[str, pa.Array] = self._ask("infer", batch)
        return outputs

    def finish(self, outputs: Mapping[str, pa.Array]) -> Mapping[str, pa.Array]:
        """See Engine; the child has done it."""
        return outputs

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
        self._child = None

    def _ask(self, request: str, rows: pa.Table) -> Any:
        with self._lock:
            if self._child is None:
                self._child, _ = self._started()
            pace = self.paces.infer if request == "infer" else self.paces.prepare
            try:
                seconds = pace.limit(len(rows)) + (0.0 if self._child.warm else _FIRST_SECONDS)
                answer = pace.call(len(rows), self._answer, self._child, (request, rows), seconds)
            except RowFailure as e:
                if e.fault is Fault.POISONED:
                    self._end()
                raise
            self._child.warm = True
            return answer

    def _start(self) -> Start:
        return Start(self._step, self._code, self._device, self._threads, self._secrets, self._storage)

    def _started(self) -> tuple[Child, Description]:
        """A child that has the model loaded."""
        deaths = 0
        while True:
            self._child = child = Child(self._start())
            try:
                description: Description = self._answer(child, ("load", self._precision), UNKNOWN_SECONDS)
            except RowFailure as e:
                deaths += 1
                # SIGKILL comes from others, and may have meant another process; what a model does to itself, it does again.
                if e.error.exit_signal != signal.SIGKILL.name or deaths > self._retries:
                    raise self._refusal(e, deaths) from None
            else:
                return child, description

    def _refusal(self, failure: RowFailure, deaths: int) -> ModelError:
        tried = "a process of its own" if deaths == 1 else f"{deaths} processes of its own, one after the other"
        return ModelError(
            f"{self._step.name}.uri: {self._step.uri} can't be loaded, tried in {tried}: {failure}. Look at what its code and the "
            f"libraries that it needs do when it is built, whether they fit this machine, and whether the machine has the memory"
        )

    def _answer(self, child: Child, request: Any, seconds: float) -> Any:
        """The child's answer. Raises what the child raised; where it gave none, the child is gone."""
        answer = None
        try:
            child.connection.send(request)
            end = time.monotonic() + seconds
            while not child.connection.poll(_LOOK_SECONDS):
                if self._stopping.is_set():
                    raise StoppedError("stopped before the shard was finished")
                if time.monotonic() > end:
                    raise RowFailure(RowError("timeout", "Timeout", "a call took too long", 1, retryable=True))
            answer = child.connection.recv()
        except (EOFError, OSError):
            raise RowFailure(child.death()) from None
        finally:
            if answer is None:
                self.ended += not self._stopping.is_set()
                self._end()
        if isinstance(answer, Raised):
            raise failure_of(answer)
        return answer


class Child:
    """A process that runs `program`, and the connection to it; it is sent `start` first."""

    def __init__(self, start: object, program: str = _PROGRAM) -> None:
        self.warm = False
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._killed_before = _out_of_memory_kills()
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-c", program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # standard output is the result of whoever runs the job
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
            self.connection = Connection(ours.detach())
        with contextlib.suppress(OSError):  # a child that is dead already shows at the first request
            self.connection.send(start)

    def end(self) -> None:
        """Kill it, with the processes that it started, and wait until it is gone."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def death(self) -> RowError:
        """What a dead letter says of its end."""
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return RowError("process_death", "ProcessDied", "its process closed the connection and went on", 1)
        how = signal.Signals(-status).name if status < 0 else f"exit {status}"
        if status == -signal.SIGKILL and _out_of_memory_kills() > self._killed_before:
            return RowError(
                "out_of_memory",
                "ProcessDied",
                "its process was killed: out of memory",
                1,
                retryable=True,
                exit_signal=how,
            )
        killed = status == -signal.SIGKILL  # by whom is not known
        return RowError(
            "process_death", "ProcessDied", f"its process died: {how}", 1, retryable=killed, exit_signal=how
        )


def _out_of_memory_kills() -> int:
    """Processes that the kernel killed because memory was short, since boot."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
