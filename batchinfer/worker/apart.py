"""An engine whose model is elsewhere: rows are prepared and outputs finished here, and batches go to the step's model actors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Protocol

import pyarrow as pa

from batchinfer.engines.protocol import Description, Engine
from batchinfer.engines.travel import unpack
from batchinfer.errors import BatchinferError
from batchinfer.worker.failures import Raised, failure_of
from batchinfer.worker.pace import Paces
from batchinfer.worker.serving import Answer
from batchinfer.worker.watched import Counted, CountedRows


class Models(Protocol):
    """A step's model actors, as a worker that prepares for them sees them."""

    def opened(self) -> tuple[Engine, Description]:
        """Their engine without the model, and what it says of itself."""

    def send(self, shard: int, batch: Counted) -> Sent:
        """Send a batch to the least busy; waits while each has as much from here as it may have. Raises StoppedError."""


class Sent(Protocol):
    """A batch on its way."""

    def answer(self) -> Answer:
        """What came of it, once that is there. Raises ModelLostError where the process that had it has ended, StoppedError."""


class Pending:
    """Outputs that are still to come."""

    def __init__(self, sent: Sent) -> None:
        self._sent = sent
        self._answer: Answer | None = None

    def outputs(self) -> Counted:
        """The outputs, waiting for them. Raises what the model raised, as RowFailure where that is about the rows."""
        answer = self._heard()
        if isinstance(answer.outputs, Raised):
            raise failure_of(answer.outputs)
        assert answer.outputs is not None, "a batch that was declined has gone on to another model"
        outputs: Counted = unpack(answer.outputs)
        return outputs

    @property
    def seconds(self) -> float:
        """Of the model's call; waits for its end."""
        return self._heard().seconds

    def _heard(self) -> Answer:
        if self._answer is None:
            self._answer = self._sent.answer()
        return self._answer


class Apart:
    """See Engine. `infer` gives Pending as soon as a model actor has taken the batch, and `finish` waits for it.

    Args:
        models: the model actors.
        timeout: seconds that preparing the rows of one batch may take; None for a limit from the pace.

    """

    def __init__(self, models: Models, timeout: float | None) -> None:
        self._models, self._shard = models, -1
        self._engine: Engine | None = None
        self.paces = Paces(timeout)

    def of(self, shard: int) -> Apart:
        """The engine for the batches of a shard, so that those who have them know whose they are."""
        mine = copy.copy(self)
        mine._shard = shard
        return mine

    def drop(self) -> None:
        """There is no model here."""

    def load(self, device: str, precision: str, threads: int) -> Description:  # noqa: ARG002 - as the model actors have it
        """Take over the engine of the model actors, without the model."""
        self._engine, description = self._models.opened()
        return description

    def prepare(self, rows: pa.Table) -> CountedRows:
        """See Engine."""
        return CountedRows(self.paces.prepare.call(len(rows), self._opened().prepare, rows), self.paces.batch)

    def infer(self, batch: Counted) -> Pending:
        """Hand a batch to a model actor. Raises StoppedError."""
        return Pending(self._models.send(self._shard, batch))

    def finish(self, outputs: Pending | Counted) -> Mapping[str, pa.Array]:
        """See Engine. Raises what the model raised, too."""
        came = outputs.outputs() if isinstance(outputs, Pending) else outputs
        finished: Mapping[str, pa.Array] = self.paces.finish.call(came.rows, self._opened().finish, came.payload)
        return finished

    def _opened(self) -> Engine:
        if self._engine is None:
            raise BatchinferError("load() comes before prepare() and finish()")
        return self._engine
