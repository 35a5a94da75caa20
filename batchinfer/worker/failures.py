"""What becomes of an exception: the dead letter of a row, or the outcome of a shard."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from batchinfer.data.dead_letters import tidy
from batchinfer.engines.faults import Fault, fault_of
from batchinfer.errors import (
    BatchinferError,
    CircuitBreakerError,
    DeviceError,
    InputError,
    ModelLostError,
    RefusedError,
    StoppedError,
    TransientError,
)
from batchinfer.job.secrets import Secrets
from batchinfer.worker.context import Failed, Failure, RowError


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


def is_kept(error: BaseException) -> bool:
    """Whether what a shard has come to is saved: not where the store is away, and not where it says nothing of the rows."""
    return isinstance(error, (StoppedError, ModelLostError)) or not isinstance(
        error, (TransientError, CircuitBreakerError)
    )


def failed(shard: int, error: BaseException, secrets: Secrets) -> Failed:
    """The one place where any exception of a shard becomes a value."""
    kind = Failure.UNEXPECTED
    if isinstance(error, StoppedError):
        kind = Failure.STOPPED
    elif isinstance(error, InputError):
        kind = Failure.INPUT
    elif isinstance(error, (RefusedError, CircuitBreakerError)):
        kind = Failure.REFUSED
    elif isinstance(error, DeviceError):
        kind = Failure.POISONED
    elif isinstance(error, ModelLostError):
        kind = Failure.LOST
    elif isinstance(error, TransientError):
        kind = Failure.TRANSIENT
    text = "".join(traceback.format_exception(error))
    message = str(error) if kind is not Failure.UNEXPECTED else f"{type(error).__name__}: {error}"
    return Failed(shard, kind, secrets.hide(message), secrets.hide(text), getattr(error, "exit_code", 1))
