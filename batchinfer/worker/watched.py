"""The engine in this process, watched: calls are timed while they go on, and none is made after one that broke the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data.dead_letters import tidy
from batchinfer.engines import faults
from batchinfer.engines.faults import Fault
from batchinfer.engines.protocol import Description, Engine, Prepared, Rows
from batchinfer.errors import DeviceError
from batchinfer.worker.pace import Pace, Paces


class _Counted(NamedTuple):
    """A payload and the rows that are in it."""

    rows: int
    payload: Any


class _CountedRows:
    """See Prepared."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        return self._prepared.lengths

    @property
    def truncated(self) -> NDArray[np.bool_] | None:
        return self._prepared.truncated

    def __len__(self) -> int:
        return len(self._prepared)

    def batch(self, rows: Rows) -> _Counted:
        count = len(range(*rows.indices(len(self)))) if isinstance(rows, slice) else len(rows)
        return _Counted(count, self._prepared.batch(rows))


class Watched:
    """An engine (see Engine) around another; what it gives and raises is that one's, but DeviceError from the call on that breaks
    the device's context.

    Args:
        make: opens the engine, not loaded.
        timeout: seconds that a call may take; None for a limit from the pace.

    """

    def __init__(self, make: Callable[[], Engine], timeout: float | None) -> None:
        self._make, self._engine = make, make()
        self.paces = Paces(timeout)
        self._broken = ""

    def drop(self) -> None:
        """Let go of the model: it must be loaded again."""
        self._engine = self._make()
        faults.free_memory()

    def load(self, device: str, precision: str, threads: int) -> Description:
        """See Engine."""
        description: Description = self.paces.load.call(1, self._engine.load, device, precision, threads)
        return description

    def prepare(self, rows: pa.Table) -> _CountedRows:
        """See Engine."""
        return _CountedRows(self._call(self.paces.prepare, len(rows), self._engine.prepare, rows))

    def infer(self, batch: _Counted) -> _Counted:
        """See Engine."""
        return _Counted(batch.rows, self._call(self.paces.infer, batch.rows, self._engine.infer, batch.payload))

    def finish(self, outputs: _Counted) -> Mapping[str, pa.Array]:
        """See Engine."""
        finished: Mapping[str, pa.Array] = self._call(
            self.paces.finish, outputs.rows, self._engine.finish, outputs.payload
        )
        return finished

    def _call(self, pace: Pace, rows: int, function: Callable[[Any], Any], argument: Any) -> Any:
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
