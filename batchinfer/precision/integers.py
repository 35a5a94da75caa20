"""Recipes of integer weights, by torchao: int8, int8-weight and int4-weight. Large lookup tables are of eight bits in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchinfer.precision.compiled import compile_in_place, no_compiler
from batchinfer.precision.dtypes import round_matmuls
from batchinfer.precision.layers import load_torchao, quantize
from batchinfer.precision.protocol import Applied

GROUP = 32
"""Weights that share a scale at four bits; with more of them accuracy is lost (MiniLM: mean cosine .960 with 32, .943 with 128)."""
_CUDA_MULTIPLE = 16


@dataclass(frozen=True)
class Int8Dynamic:
    """Weights of eight bits for each row, inputs of a layer rounded to eight bits when they come; multiplied as integers.

    Runs by torch.compile, which joins the rounding with what is around it: 0.9 times the pace of fp32 without, 1.9 times with it. What is
    not quantized is float32 on a CPU, bfloat16 on a GPU.
    """

    name = "int8"
    bits = 8
    compiles = True
    quantizes = True

    def obstacle(self, device: str) -> str | None:
        """Runs on CPUs with a C++ compiler beside them, and on CUDA."""
        return _beyond(device, self.name) or no_compiler(device, self.name)

    def apply(self, module: Any, device: str) -> Applied:
        """The module with its linear layers quantized, to be compiled in its first call."""
        import torch

        config = load_torchao(f"precision: {self.name}").Int8DynamicActivationInt8WeightConfig()
        on_gpu = device.startswith("cuda")
        dtype = torch.bfloat16 if on_gpu else torch.float32
        round_matmuls(device, allowed=False)
        module = module.to(device=device, dtype=dtype)
        done, layers = quantize(
            module,
            config,
            self.name,
            lambda each: not on_gpu or _is_multiple(each, _CUDA_MULTIPLE),
            f"on CUDA those whose sizes are multiples of {_CUDA_MULTIPLE}",
            tables=True,
        )
        compile_in_place(module)
        return Applied(module, dtype, done, layers, compiled=True)


@dataclass(frozen=True)
class Int8Weight:
    """Weights of eight bits for each row, multiplied in bfloat16; compiling it costs more than it brings (0.6 for 2.7 times fp32)."""

    name = "int8-weight"
    bits = 8
    compiles = False
    quantizes = True

    def obstacle(self, device: str) -> str | None:
        """Runs on CPUs and on CUDA."""
        return _beyond(device, self.name)

    def apply(self, module: Any, device: str) -> Applied:
        """The module in bfloat16 with the weights of its linear layers quantized."""
        import torch

        config = load_torchao(f"precision: {self.name}").Int8WeightOnlyConfig()
        round_matmuls(device, allowed=False)
        module = module.to(device=device, dtype=torch.bfloat16)
        done, layers = quantize(module, config, self.name, lambda _: True, "any linear layer would do", tables=True)
        return Applied(module, torch.bfloat16, done, layers)


@dataclass(frozen=True)
class Int4Weight:
    """Weights of four bits in groups of 32, multiplied in bfloat16 by a kernel of its own on CUDA, in float32 on a CPU.

    On a CPU it saves no time, and each weight takes a byte: it is there to try out what a GPU would give, and for models that were
    trained for it.
    """

    name = "int4-weight"
    bits = 4
    compiles = False
    quantizes = True

    def obstacle(self, device: str) -> str | None:
        """Runs on CPUs and on CUDA."""
        return _beyond(device, self.name)

    def apply(self, module: Any, device: str) -> Applied:
        """The module with the weights of its linear layers quantized, where a row of them is a whole number of groups."""
        import torch

        ao = load_torchao(f"precision: {self.name}")
        round_matmuls(device, allowed=False)
        if device.startswith("cuda"):
            dtype = torch.bfloat16
            config = ao.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
        else:
            dtype = torch.float32
            per_group = ao.PerGroup(GROUP)
            config = ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=per_group)
        module = module.to(device=device, dtype=dtype)
        fits = f"those whose number of inputs is a multiple of {GROUP}"
        done, layers = quantize(
            module, config, self.name, lambda each: each.in_features % GROUP == 0, fits, tables=True
        )
        return Applied(module, dtype, done, layers)


def _beyond(device: str, name: str) -> str | None:
    if device == "cpu" or device.startswith("cuda"):
        return None
    return f"{name} has kernels for cpu and cuda, not for {device}"


def _is_multiple(layer: Any, size: int) -> bool:
    return bool(layer.in_features % size == 0 and layer.out_features % size == 0)
