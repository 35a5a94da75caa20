"""Batch inference over Parquet datasets: one job file, every row accounted for exactly once.

The public names are resolved when they are first used: every worker imports this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchinfer.api import Job, Run, compare, map, open_run  # noqa: A004
    from batchinfer.errors import BatchinferError, JobFileError, RefusedError, TransientError
    from batchinfer.plan.plan import Plan

__all__ = [
    "BatchinferError",
    "Job",
    "JobFileError",
    "Plan",
    "RefusedError",
    "Run",
    "TransientError",
    "compare",
    "map",
    "open_run",
]

_HOMES = {
    "BatchinferError": "errors",
    "Job": "api",
    "JobFileError": "errors",
    "Plan": "plan.plan",
    "RefusedError": "errors",
    "Run": "api",
    "TransientError": "errors",
    "compare": "api",
    "map": "api",
    "open_run": "api",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"batchinfer.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
