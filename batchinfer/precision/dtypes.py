"""Recipes that change the type of all numbers of a module alike: fp32, tf32, bf16 and fp16; and fp32 and bf16 by torch.compile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from batchinfer.errors import ModelError
from batchinfer.precision.compiled import compile_in_place, no_compiler
from batchinfer.precision.packed import pack
from batchinfer.precision.protocol import Applied

_AMPERE = (8, 0)


@dataclass(frozen=True)
class Floating:
    """All floating numbers in one type."""

    name: str
    bits: int
    dtype: str | None
    """Name of the torch.dtype; None leaves a module as it was stored."""
    tensor_cores: bool = False
    """Whether float32 multiplications may round their factors to tf32."""
    compiles = False
    quantizes = False

    def obstacle(self, device: str) -> str | None:
        """tf32 needs CUDA; the others run everywhere."""
        if self.tensor_cores and not device.startswith("cuda"):
            return f"{self.name} is a rounding inside an NVIDIA GPU's matrix units, which {device} has none of"
        return None

    def apply(self, module: Any, device: str) -> Applied:
        """The module in this type, its linear layers packed on a CPU. Raises ModelError for tf32 on a GPU before Ampere."""
        applied = self.cast(module, device)
        if device != "cpu":
            return applied
        floats = (p.dtype for p in applied.module.parameters() if p.is_floating_point())
        stored = next(floats, None)
        return replace(applied, dtype=applied.dtype or stored) if pack(applied.module) else applied

    def cast(self, module: Any, device: str) -> Applied:
        """The module in this type, with the layers that it has. Raises ModelError for tf32 on a GPU before Ampere."""
        import torch

        round_matmuls(device, allowed=self.tensor_cores)
        if self.tensor_cores and (found := torch.cuda.get_device_capability(device)) < _AMPERE:
            raise ModelError(
                f"precision {self.name}: needs an NVIDIA GPU of compute capability 8.0 or later, and {torch.cuda.get_device_name(device)} "
                f"has {found[0]}.{found[1]}: use fp32 or fp16"
            )
        if self.dtype is None:
            return Applied(module.to(device), None)
        dtype = getattr(torch, self.dtype)
        return Applied(module.to(device=device, dtype=dtype), dtype)


def round_matmuls(device: str, *, allowed: bool) -> None:
    """Let float32 multiplications and convolutions of a CUDA device round to tf32, or not, for the whole process.

    Said for every recipe: torch's own default rounds convolutions, and a former recipe may have said otherwise.
    """
    if device.startswith("cuda"):
        import torch

        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


FLOATING = (
    Floating("fp32", 32, None),
    Floating("tf32", 16, None, tensor_cores=True),
    Floating("bf16", 16, "bfloat16"),
    Floating("fp16", 16, "float16"),
)


@dataclass(frozen=True)
class Compiled:
    """The same numbers as a floating recipe's, by torch.compile, which joins what follows each other: other last bits, and less traffic.

    MiniLM on a CPU at one thread: 1.08 times the pace of fp32, 1.10 times that of bf16, after 28 s of compiling.
    """

    of: Floating
    compiles = True
    quantizes = False

    @property
    def name(self) -> str:
        """The floating recipe's, and that it is compiled."""
        return f"{self.of.name}-compiled"

    @property
    def bits(self) -> int:
        """The floating recipe's."""
        return self.of.bits

    def obstacle(self, device: str) -> str | None:
        """Runs on CPUs with a C++ compiler beside them, and on CUDA."""
        return self.of.obstacle(device) or no_compiler(device, self.name)

    def apply(self, module: Any, device: str) -> Applied:
        """The module in this type, to be compiled in its first call."""
        applied = self.of.cast(module, device)
        compile_in_place(applied.module)
        return replace(applied, compiled=True)


COMPILED = tuple(Compiled(each) for each in FLOATING if each.name in ("fp32", "bf16"))
