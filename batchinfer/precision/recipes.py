"""The recipes that keep a module's structure and change the type of its numbers: fp32 and bf16."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.errors import ModelError

if TYPE_CHECKING:
    import torch

RECIPES = ("fp32", "bf16")
"""Every precision that `apply` knows, the reference first."""

JUDGED = frozenset({"int8"})
"""Precisions below 16 bits: a job gets one by asking for it, or by a comparison of its results with those of the reference."""


def dtype(precision: str) -> torch.dtype:
    """The floating type that a module at `precision` takes and computes in. Raises ModelError for an unknown one."""
    import torch

    _check(precision)
    return torch.bfloat16 if precision == "bf16" else torch.float32


def apply(module: Any, precision: str) -> Any:
    """`module` at `precision`, converted in place. fp32 leaves it as it was stored.

    Raises ModelError for an unknown one.
    """
    _check(precision)
    return module if precision == "fp32" else module.to(dtype(precision))


def _check(precision: str) -> None:
    if precision not in RECIPES:
        raise ModelError(f"there is no precision {precision}: use one of {', '.join(RECIPES)}")
