"""What a dead letter says of the error that a row died of."""

from __future__ import annotations

from dataclasses import dataclass

from batchinfer.data.dead_letters import tidy
from batchinfer.engines.faults import Fault, fault_of
from batchinfer.errors import BatchinferError
from batchinfer.worker.context import RowError


class RowFailure(Exception):  # noqa: N818 - what became of a call, in a process that can't raise it here
    """A call in a child process failed, by an exception there or by the end of the process."""

    def __init__(self, error: RowError, fault: Fault | None = None) -> None:
        super().__init__(error.message)
        self.error, self.fault = error, fault


@dataclass(frozen=True)
class Raised:
    """What a call raised in another process: the error of a row, unless it is one of batchinfer's own, which is no row's fault."""

    error: RowError | BatchinferError
    fault: Fault | None = None


def failure_of(raised: Raised) -> BaseException:
    """The exception to raise here for one that was raised there."""
    error = raised.error
    if isinstance(error, BatchinferError):
        return error
    if raised.fault is Fault.POISONED:
        error = RowError("device_error", error.error_type, error.message, error.attempts)
    return RowFailure(error, raised.fault)


def fault(error: BaseException) -> Fault | None:
    """The fault behind what a call raised, here or in a child process."""
    return error.fault if isinstance(error, RowFailure) else fault_of(error)


def row_error(error: BaseException, attempts: int) -> RowError:
    """What a dead letter says of an exception that the row raised alone."""
    if isinstance(error, RowFailure):
        return error.error.after(attempts)
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a model may raise anything, also what can't say what it is
        message = "(the exception could not be put into words)"
    full = fault_of(error) is Fault.MEMORY
    kind = "out_of_memory" if full else "exception"
    return RowError(kind, type(error).__name__, tidy(message), attempts, retryable=full)
