"""The recipe of eight-bit floating numbers, by torchao: fp8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchinfer.errors import ModelError
from batchinfer.precision.compiled import compile_in_place
from batchinfer.precision.dtypes import round_matmuls
from batchinfer.precision.layers import load_torchao, quantize
from batchinfer.precision.protocol import Applied

_ADA = (8, 9)
_MULTIPLE = 16


@dataclass(frozen=True)
class Float8:
    """Weights and the inputs of a layer in float8 (e4m3), a scale for each row of either; the rest in bfloat16.

    Runs by torch.compile, which joins the rounding of inputs with what is around it.
    """

    name = "fp8"
    bits = 8
    compiles = True
    quantizes = True

    def obstacle(self, device: str) -> str | None:
        """Runs on CUDA alone."""
        if device.startswith("cuda"):
            return None
        return f"{self.name} needs the float8 matrix units of an NVIDIA GPU of compute capability 8.9 or later, which {device} has none of"

    def apply(self, module: Any, device: str) -> Applied:
        """The module with its linear layers quantized, to be compiled in its first call. Raises ModelError for a GPU without float8."""
        import torch

        if (reason := self.obstacle(device)) is not None:
            raise ModelError(f"precision {reason}")
        found = torch.cuda.get_device_capability(device)
        if found < _ADA:
            raise ModelError(
                f"precision {self.name}: needs an NVIDIA GPU of compute capability 8.9 or later, and {torch.cuda.get_device_name(device)} "
                f"has {found[0]}.{found[1]}: use int8 or bf16"
            )
        ao = load_torchao(f"precision: {self.name}")
        round_matmuls(device, allowed=False)
        module = module.to(device=device, dtype=torch.bfloat16)
        done, layers = quantize(
            module,
            ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow()),
            self.name,
            lambda each: each.in_features % _MULTIPLE == 0 and each.out_features % _MULTIPLE == 0,
            f"those whose sizes are multiples of {_MULTIPLE}",
        )
        compile_in_place(module)
        return Applied(module, torch.bfloat16, done, layers, compiled=True)
