"""A suspected shard read once in a child process, before this process reads it: a decoder that dies of a file costs that file.

A decoder may crash, or take all memory, on bytes that no check foresees. What it did to the worker can't be told from what a
row of the model does to it. So both are looked for when a shard has ended workers: the rows by `quarantine`, the file here.
"""

from __future__ import annotations

import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from batchinfer.data.inputs import RowRange
from batchinfer.data.reader import Reader
from batchinfer.data.where import Where
from batchinfer.errors import BatchinferError, InputError, StoppedError
from batchinfer.plan.plan import kept_input
from batchinfer.plan.shards import Shard
from batchinfer.worker import child, logs
from batchinfer.worker.context import Context
from batchinfer.worker.quarantine import Child

_PROGRAM = "from batchinfer.worker.trial import main; main()"
_LOOK_SECONDS = 0.1
_WINDOW_SECONDS = 900.0
"""Reading a window for longer hangs: a store that is away is given up much sooner."""


def open_reader(context: Context) -> Reader:
    """The reader of a job's input. Raises RefusedError, MissingExtraError."""
    reading = context.reading
    where = Where(reading.where) if reading.where else None
    return Reader(reading.schema, where, options=context.spec.storage, kept=kept_input(context.spec))


class Trial:
    """Reads shards in a child process, which is started when it is needed and again after it has died.

    Args:
        context: the job.
        stopping: when set, a reading ends the child and raises StoppedError.
        seconds: that reading a window may take.

    """

    def __init__(self, context: Context, stopping: threading.Event, seconds: float = _WINDOW_SECONDS) -> None:
        self._context, self._stopping, self._seconds = context, stopping, seconds
        self._child: Child | None = None
        self.ended = 0
        """Readings that a process ended in, or had to be ended for."""

    def read(self, shard: Shard) -> None:
        """Read all rows of a shard, and keep none.

        Raises:
            InputError: a file can't be read, or its reading ended the process, took too long or too much memory.
            StorageError, AccessError: the store can't be read.
            StoppedError: the worker is to stop.

        """
        for part in shard.ranges:
            if not part.pruned:
                self._read(part)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.end()
        self._child = None

    def _read(self, part: RowRange) -> None:
        if self._child is None:
            self._child = Child(self._context, _PROGRAM)
        done, answer = 0, None
        try:
            self._child.connection.send(part)
            while (answer := self._heard(part, done)) is not None and not isinstance(answer, BatchinferError):
                done += answer
        except (EOFError, OSError):
            self.ended += 1
            why = self._child.death().message
            self.close()
            raise _unreadable(part, done, f"ended the process that read them ({why})") from None
        except BaseException:
            self.close()
            raise
        if answer is not None:
            raise answer

    def _heard(self, part: RowRange, done: int) -> Any:
        """What the child says next: rows that it has read, None at the end, or an error."""
        assert self._child is not None
        end = time.monotonic() + self._seconds
        while not self._child.connection.poll(_LOOK_SECONDS):
            if self._stopping.is_set():
                raise StoppedError("stopped before the shard was finished")
            if time.monotonic() > end:
                self.ended += 1
                raise _unreadable(part, done, f"takes more than {self._seconds:.0f} s")
        return self._child.connection.recv()


def _unreadable(part: RowRange, done: int, what: str) -> InputError:
    return InputError(
        f"{part.file.path}: reading rows {part.start + done:,} to {part.start + part.rows - 1:,} {what}: "
        "the file is damaged; write it anew, or leave it out of input.path"
    )


def main() -> None:
    """Read the ranges that the parent sends, until it closes the connection."""
    connection = Connection(int(sys.argv[1]))
    context: Context = connection.recv()
    child.settle(context.threads, bounded=True)
    logs.begin(context.spec.secrets)
    reader = open_reader(context)
    while (part := _next(connection)) is not None:
        connection.send(_try(reader, part, context.reading.window, connection))


def _next(connection: Connection) -> RowRange | None:
    try:
        part: RowRange = connection.recv()
    except EOFError:
        return None
    return part


def _try(reader: Reader, part: RowRange, window: int, connection: Connection) -> BatchinferError | None:
    """Read a range, with a sign of life after each window; the error that it ends with."""
    done = 0
    try:
        for read in reader.windows([part], window):
            connection.send(read.rows)
            done += read.rows
    except BatchinferError as e:
        return e
    except MemoryError:
        return _unreadable(part, done, "takes more memory than is left")
    except Exception as e:  # noqa: BLE001 - the parent raises it
        return BatchinferError(f"{type(e).__name__}: {e}")
    return None
