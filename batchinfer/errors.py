"""Every exception that batchinfer raises on purpose. A message says what is wrong, where, and what to do.

BatchinferError                 exit 1   anything not foreseen below
├── RefusedError                exit 2   nothing was run; running the same again gives the same
│   ├── JobFileError                     the job file, its parameters or overrides are wrong
│   ├── InputError                       the input is missing, unreadable, in conflict, or has changed
│   ├── OutputError                      the output path can't be used as it stands
│   ├── AccessError                      no permission, or credentials that are missing or refused
│   ├── FingerprintError                 the output belongs to a job that differs in what counts
│   ├── ModelError                       a model or class can't be found, loaded, or used as asked
│   ├── ResourceError                    the machines lack the memory that the workers need
│   ├── GateError                        a precision disagrees with full precision, or can't be compared with it
│   └── MissingExtraError                an optional dependency isn't installed
├── CircuitBreakerError         exit 3   every row failed in the same way
├── SkippedError                exit 99  another runner works on this output, and that was to be no failure
└── TransientError              exit 75  running the same command again resumes
    ├── StorageError                     the store is away, full, or refuses
    ├── LockedError                      another runner works on this output
    ├── StoppedError                     asked to stop, and stopped
    ├── DeviceError                      the device's context is broken; another process may use the device
    ├── HungError                        a call of the model took too long
    ├── ModelLostError                   the process that held the model has ended
    └── ClusterError                     the cluster can't be reached, or is gone
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass


class BatchinferError(Exception):
    """The root. `exit_code` is what the command line ends with."""

    exit_code = 1


class RefusedError(BatchinferError):
    """The job can't run as asked; a retry without a change gives the same."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a job file: where it is and what to do about it."""

    where: str
    """The YAML path with dots and indices, e.g. `steps.0.precision`; empty for the file as a whole."""
    message: str
    """What is wrong and what to write instead."""
    line: int | None = None
    """Line in the file, from 1; None for a value that came from the command line."""


class JobFileError(RefusedError):
    """The job file is wrong; `problems` holds every mistake that was found, not just the first."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(self._line(p) for p in problems))

    def __reduce__(self) -> tuple[type[JobFileError], tuple[str, list[Problem]]]:
        return type(self), (self.source, self.problems)

    def _line(self, problem: Problem) -> str:
        place = f"{self.source}:{problem.line}" if problem.line else self.source
        return f"{place}: {problem.where}: {problem.message}" if problem.where else f"{place}: {problem.message}"


class InputError(RefusedError):
    """The input is missing, unreadable, in conflict with itself, or not what was planned."""


class OutputError(RefusedError):
    """The output path can't be used as it stands, or the store lacks what the protocol needs."""


class AccessError(RefusedError):
    """No permission, or credentials that are missing or refused."""


class FingerprintError(RefusedError):
    """The output belongs to a job whose model, code, configuration or input differs from this one's."""


class ModelError(RefusedError):
    """A model or class can't be found or loaded, or does not keep its side of the engine's contract."""


class ResourceError(RefusedError):
    """The machines that the workers are on lack the memory for as many models."""


class GateError(RefusedError):
    """A model at the precision that was asked for disagrees with full precision on the job's rows, or can't be compared with it."""


class MissingExtraError(RefusedError):
    """An optional dependency isn't installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra, self._purpose = package, extra, purpose
        super().__init__(f"{purpose} needs the package {package}: pip install 'batchinfer[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self._purpose)


class CircuitBreakerError(BatchinferError):
    """Every row that was attempted failed with one error type: the model is broken, not the rows."""

    exit_code = 3


class SkippedError(BatchinferError):
    """Another runner works on this output, and whoever asked wants no run then, and no failure."""

    exit_code = 99


class TransientError(BatchinferError):
    """Something outside the job stopped it; running the same command again resumes."""

    exit_code = 75


class StorageError(TransientError):
    """The store is away, full, or refuses; what was written before is whole."""


class LockedError(TransientError):
    """Another runner works on this output."""


class StoppedError(TransientError):
    """The run was asked to stop and has stopped; `exit_code` is 130 after Ctrl-C, else 75."""

    def __init__(self, message: str, *, cancelled: bool = False) -> None:
        super().__init__(message)
        self._cancelled = cancelled
        self.exit_code = 130 if cancelled else 75

    def __reduce__(self) -> tuple[Callable[..., StoppedError], tuple[str]]:
        return functools.partial(type(self), cancelled=self._cancelled), (str(self),)


class DeviceError(TransientError):
    """The device's context is broken: nothing that this process computes counts any more, but another process may go on."""


class HungError(TransientError):
    """A call of the model took longer than it may; the thread that made it is lost."""


class ModelLostError(TransientError):
    """The process that held the model has ended with a batch of the shard in hand; another one can take it."""


class ClusterError(TransientError):
    """The Ray cluster can't be reached, or is gone."""
