"""Probes that end in time: each beside the others, and one that fails or hangs is a finding."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from batchinfer.doctor.finding import Finding, State
from batchinfer.errors import BatchinferError, MissingExtraError


@dataclass
class Probe:
    """Something to find out.

    An error of ours that it raises is what it found; any other says that it could not be found out.
    """

    topic: str
    seconds: float
    """It may take so long."""
    work: Callable[[], Iterable[Finding]]
    late: State = State.UNKNOWN
    """What it means where it takes longer."""
    _found: list[Finding] | None = field(default=None, init=False)

    def _do(self) -> None:
        try:
            self._found = list(self.work())
        except MissingExtraError as error:
            text, _, command = str(error).rpartition(": ")
            self._found = [Finding(self.topic, State.WRONG, text, command)]
        except BatchinferError as error:
            self._found = [Finding(self.topic, State.WRONG, line) for line in str(error).splitlines()]
        except Exception as error:  # noqa: BLE001 - of whatever was asked; it is told
            self._found = [
                Finding(self.topic, State.UNKNOWN, f"could not be found out: {type(error).__name__}: {error}")
            ]

    def found(self, thread: threading.Thread, begun: float) -> list[Finding]:
        """What it found until its time is over."""
        thread.join(max(0.0, begun + self.seconds - time.monotonic()))
        return self._found or (
            [Finding(self.topic, self.late, f"no answer within {self.seconds:g} s")] if self._found is None else []
        )


def ask(probes: Sequence[Probe]) -> list[tuple[Finding, ...]]:
    """What each of them finds, asked side by side; one that is late goes on in a thread that nobody waits for."""
    begun = time.monotonic()
    threads = [threading.Thread(target=probe._do, name=f"batchinfer-{probe.topic}", daemon=True) for probe in probes]
    for thread in threads:
        thread.start()
    return [tuple(probe.found(thread, begun)) for probe, thread in zip(probes, threads, strict=True)]


class ProgramError(Exception):
    """A program that was asked ended otherwise than with 0, or not in time."""


def said_by(command: Sequence[str], seconds: float) -> str:
    """The standard output of a program. Raises FileNotFoundError where there is none, ProgramError where it fails or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603 - words of our own
            command, capture_output=True, text=True, errors="replace", timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise ProgramError(f"no answer within {seconds:g} s") from None
    if done.returncode < 0:
        raise ProgramError(f"ended by signal {-done.returncode}")
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ProgramError(lines[-1] if lines else f"exit code {done.returncode}")
    return done.stdout


def said_by_python(arguments: Sequence[str], seconds: float) -> str:
    """The same of this Python: what crashes there, or keeps Python to itself, does so in a process of its own."""
    return said_by([sys.executable, *arguments], seconds)
