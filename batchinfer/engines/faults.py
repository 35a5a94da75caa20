"""What an exception says of the device that it came from: out of memory, or broken for good. By type and error code.

Imports no library: what nobody has imported can't have raised.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from enum import Enum

_OUT_OF_MEMORY_CODE = 2
_PASSING_CODES = frozenset({1, 9, 98, 209})
"""CUDA errors after which the context goes on working: invalid value, invalid configuration, no such function, no kernel image."""


class Fault(Enum):
    """What an exception means beside the rows that were in the batch."""

    MEMORY = "out of memory"
    """Fewer rows may fit."""
    POISONED = "device context poisoned"
    """Whatever this process computes from now on is wrong or fails."""


def fault_of(error: BaseException) -> Fault | None:
    """The fault behind an exception; None where it is about the rows alone.

    After any other error on a CUDA device the device is asked as well, since a broken context also shows in errors that have
    no type of their own.
    """
    if isinstance(error, MemoryError):
        return Fault.MEMORY
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(error, torch.OutOfMemoryError):
        return Fault.MEMORY
    if isinstance(error, torch.AcceleratorError):
        return _of_code(getattr(error, "error_code", None))
    # torch's own allocator on the CPU has no type for it.
    if type(error) is RuntimeError and "DefaultCPUAllocator: " in str(error):
        return Fault.MEMORY
    return _asked(torch) if torch.cuda.is_available() and torch.cuda.is_initialized() else None


def _of_code(code: int | None) -> Fault | None:
    if code == _OUT_OF_MEMORY_CODE:
        return Fault.MEMORY
    return None if code in _PASSING_CODES else Fault.POISONED


def _asked(torch: object) -> Fault | None:
    try:
        torch.cuda.synchronize()  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - a sound context has nothing to raise here
        return Fault.POISONED
    return None


def free_memory() -> None:
    """Give memory back that nothing holds any more. Call it outside the `except`: the traceback holds the batch."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    with contextlib.suppress(RuntimeError):  # a broken context frees nothing
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()
