"""What passes through a worker's queues, from stage to stage."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.protocol import Prepared
from batchinfer.plan.shards import Shard
from batchinfer.worker.context import Outcome
from batchinfer.worker.shard_run import ShardRun
from batchinfer.worker.window_rows import WindowRows


@dataclass(frozen=True)
class Submitted:
    """A shard as it was taken in."""

    shard: Shard
    outcome: Future[Outcome]
    quarantined: bool = False
    """Whether its model runs in a child process."""


@dataclass(frozen=True)
class End:
    """The last item of a shard in every queue."""

    run: ShardRun


@dataclass(frozen=True)
class Read:
    """A window that is to be prepared for the step that it is at."""

    run: ShardRun
    window: WindowRows


@dataclass(frozen=True)
class Batch:
    """Rows of a window for the model of its step: `rows` are positions in `prepared`, `ordinals` their rows in the shard."""

    run: ShardRun
    window: WindowRows
    prepared: Prepared
    rows: NDArray[np.intp]
    ordinals: NDArray[np.int64]
    payload: Any


@dataclass(frozen=True)
class Outputs:
    """What the model gave for a batch, not finished yet."""

    batch: Batch
    outputs: Any


@dataclass(frozen=True)
class Results:
    """Rows that the step is done with: predicted, dead, or from a checkpoint."""

    run: ShardRun
    window: WindowRows
    table: pa.Table
    """Of the schema of the step's chunks; without columns or rows for a window that has all steps behind."""
    fresh: bool
    """Whether no checkpoint holds them yet."""


@dataclass(frozen=True)
class Call:
    """A function for the device's thread: frameworks keep their thread counts per thread."""

    function: Callable[[], Any]
    future: Future[Any]
    beside: bool = False
    """Whether other calls may be made at the same time, on streams."""

    def run(self) -> None:
        """Call it, on the device's thread or a stream."""
        try:
            self.future.set_result(self.function())
        except BaseException as e:  # noqa: BLE001 - handed to whoever waits
            self.future.set_exception(e)
