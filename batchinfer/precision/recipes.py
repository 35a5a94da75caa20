"""Precisions by name, the reference first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchinfer.errors import ModelError
from batchinfer.job.nearest import nearest
from batchinfer.precision import layers
from batchinfer.precision.compiled import compile_in_place
from batchinfer.precision.dtypes import COMPILED, FLOATING
from batchinfer.precision.float8 import Float8
from batchinfer.precision.integers import Int4Weight, Int8Dynamic, Int8Weight
from batchinfer.precision.protocol import Applied, Recipe

NATIVE = "native"
"""The precision of a model that runs as it is: a class of the python engine, or a checkpoint that comes quantized."""
_ALL: tuple[Recipe, ...] = (*FLOATING, Int8Dynamic(), Int8Weight(), Int4Weight(), Float8(), *COMPILED)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
"""Every precision that a job file may ask for, the reference first."""


def recipe(name: str) -> Recipe:
    """A precision by its name. Raises ModelError for an unknown one."""
    if name not in RECIPES:
        near = nearest(name, RECIPES)
        meant = f"; did you mean {near}?" if near else ""
        raise ModelError(f"there is no precision {name}: use one of {', '.join(RECIPES)}{meant}")
    return RECIPES[name]


def bits(name: str) -> int:
    """Of a weight at a precision; 32 for `native`, which has nothing fuller to be compared with.

    Raises ModelError for an unknown one.
    """
    return 32 if name == NATIVE else recipe(name).bits


def apply(name: str, module: Any, device: str) -> Applied:
    """Bring a module onto a device at a precision, see Recipe.

    `native` leaves its numbers as they were stored, and compiles a quantized one whose layers round their inputs.

    Raises ModelError where the device can't do it, or no layer could be quantized.
    """
    if name == NATIVE:
        return _as_stored(module.to(device))
    chosen = recipe(name)
    if (reason := chosen.obstacle(device)) is not None:
        raise ModelError(f"precision {reason}: use one of {', '.join(possible(device))}")
    if layers.count_quantized(module):
        raise ModelError(f"the model comes quantized, and can't be brought to {name}: it runs as it is, at {NATIVE}")
    return chosen.apply(module, device)


def _as_stored(module: Any) -> Applied:
    quantized = layers.count_quantized(module)
    compiled = bool(quantized) and layers.rounds_inputs(module)
    if compiled:
        compile_in_place(module)
    return Applied(module, None, quantized, layers.count_quantizable(module) if quantized else 0, compiled)


def possible(device: str) -> tuple[str, ...]:
    """The precisions that a device (`cpu`, `cuda`, `mps`) can do as far as it is seen without torch, the reference first."""
    return tuple(name for name, each in RECIPES.items() if each.obstacle(device) is None)
