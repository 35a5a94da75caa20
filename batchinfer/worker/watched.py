"""The engine in this process, watched: calls are timed while they go on, and none is made after one that broke the device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data.dead_letters import tidy
from batchinfer.engines import faults
from batchinfer.engines.faults import Fault
from batchinfer.engines.protocol import Description, Engine, ModelEngine, Prepared, Rows
from batchinfer.errors import DeviceError, StoppedError
from batchinfer.worker.pace import Pace, Paces


class Counted(NamedTuple):
    """A payload and the rows that are in it."""

    rows: int
    payload: Any


class CountedRows:
    """See Prepared; batches say how many rows they have."""

    def __init__(self, prepared: Prepared, pace: Pace) -> None:
        self._prepared, self._pace = prepared, pace

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """See Prepared."""
        return self._prepared.lengths

    @property
    def truncated(self) -> NDArray[np.bool_] | None:
        """See Prepared."""
        return self._prepared.truncated

    @property
    def row_bytes(self) -> int | None:
        """See Prepared."""
        return self._prepared.row_bytes

    def __len__(self) -> int:
        return len(self._prepared)

    def batch(self, rows: Rows) -> Counted:
        """See Prepared."""
        count = len(range(*rows.indices(len(self)))) if isinstance(rows, slice) else len(rows)
        return Counted(count, self._pace.call(count, self._prepared.batch, rows))


class Watched:
    """An engine (see Engine) around another; what it gives and raises is that one's, but DeviceError from the call on that breaks
    the device's context.

    Args:
        make: opens the engine, not loaded.
        timeout: seconds that a call may take; None for a limit from the pace.

    """

    def __init__(self, make: Callable[[], ModelEngine], timeout: float | None) -> None:
        self._make, self._engine = make, make()
        self.paces = Paces(timeout)
        self.stopping: threading.Event | None = None
        """While the model is measured: when set, no further call is made, and StoppedError is raised instead."""
        self._broken = ""
        self._description: Description | None = None

    def drop(self) -> None:
        """Let go of the model: it must be loaded again."""
        self._engine = self._make()
        faults.free_memory()

    def load(self, device: str, precision: str, threads: int) -> Description:
        """See Engine."""
        self._description = description = self.paces.load.call(1, self._engine.load, device, precision, threads)
        assert isinstance(description, Description)
        return description

    def without_model(self) -> tuple[Engine, Description]:
        """The loaded engine for `prepare` and `finish` alone, see ModelEngine, and what it says of itself."""
        assert self._description is not None, "it is asked for once the model is loaded"
        return self._engine.without_model(), self._description

    def prepare(self, rows: pa.Table) -> CountedRows:
        """See Engine."""
        return CountedRows(self._call(self.paces.prepare, len(rows), self._engine.prepare, rows), self.paces.batch)

    def infer(self, batch: Counted) -> Counted:
        """See Engine."""
        return Counted(batch.rows, self._call(self.paces.infer, batch.rows, self._engine.infer, batch.payload))

    def finish(self, outputs: Counted) -> Mapping[str, pa.Array]:
        """See Engine."""
        finished: Mapping[str, pa.Array] = self._call(
            self.paces.finish, outputs.rows, self._engine.finish, outputs.payload
        )
        return finished

    def _call(self, pace: Pace, rows: int, function: Callable[[Any], Any], argument: Any) -> Any:
        if self.stopping is not None and self.stopping.is_set():
            raise StoppedError("stopped while the model was measured")
        try:
            if not self._broken:
                return pace.call(rows, function, argument)
        except BaseException as e:
            if faults.fault_of(e) is not Fault.POISONED:
                raise
            self._broken = f"{type(e).__name__}: {tidy(str(e))}"
        raise DeviceError(
            f"the device's context is broken ({self._broken}); what this process had not saved is computed again"
        )
