"""What a recipe is: the numbers that a module computes in, told and checked without torch, and applied when a worker loads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Applied:
    """A module on its device at a recipe's precision, and what the recipe did to it."""

    module: Any
    """Takes the place of the module that was given, which may be the same, changed."""
    dtype: torch.dtype | None
    """Of the floating inputs that the module takes; None: that of its parameters, as they were stored."""
    quantized: int = 0
    """Layers whose weights are quantized."""
    layers: int = 0
    """Layers of the kinds that the recipe quantizes (linear ones, and large lookup tables); 0 for a recipe that changes the type of all
    numbers alike."""
    compiled: bool = False

    @property
    def smallest(self) -> int:
        """Rows that a batch needs at least: a graph that was compiled for any number of rows is none for one."""
        return 2 if self.compiled else 1

    def told(self) -> Mapping[str, Any]:
        """For people and records: `quantized_layers`, `layers` and `compiled`; empty where the name says it all."""
        if not self.layers:
            return {"compiled": True} if self.compiled else {}
        return {"quantized_layers": self.quantized, "layers": self.layers, "compiled": self.compiled}


class Recipe(Protocol):
    """A precision by its name in a job file."""

    @property
    def name(self) -> str:
        """As the job file has it."""

    @property
    def bits(self) -> int:
        """Of a weight as it is stored; tf32, which rounds inside the multiplication, counts as 16."""

    @property
    def compiles(self) -> bool:
        """Whether it runs by torch.compile, which takes up to a minute for a model."""

    @property
    def quantizes(self) -> bool:
        """Whether it exchanges layers of a module by torchao, which a TorchScript or exported program has none of."""

    def obstacle(self, device: str) -> str | None:
        """Why a device (`cpu`, `cuda`, `cuda:1`, `mps`) can't do it, None where it can. Needs no torch."""

    def apply(self, module: Any, device: str) -> Applied:
        """Bring a module in inference mode onto the device at this precision; the module that was given is used up.

        Raises ModelError where the device lacks what `obstacle` can't see, and where no layer could be quantized.
        """
