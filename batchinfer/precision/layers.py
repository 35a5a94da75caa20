"""Exchanging the weights of linear layers by torchao, and large lookup tables: which, how many it really did, and quietly."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.precision.tables import count_tables, is_large, quantize_tables

PACKAGE, EXTRA = "torchao", "quantization"
_LOUD = ("torchao", "torch.utils._pytree")
"""Loggers that warn of libraries for other devices, and of names that torchao registers, while it is imported."""


def is_installed() -> bool:
    """Whether torchao is there; it isn't imported."""
    return importlib.util.find_spec(PACKAGE) is not None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What torchao logs of libraries for other devices, while it is imported, is nobody's concern."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load_torchao(purpose: str) -> Any:
    """The module `torchao.quantization`. Raises MissingExtraError naming the extra and the `purpose`."""
    if not is_installed():
        raise MissingExtraError(PACKAGE, EXTRA, purpose)
    with quiet():
        return importlib.import_module("torchao.quantization")


def are_quantized(state: Mapping[str, Any]) -> bool:
    """Whether tensors of a state dict are quantized."""
    return any(is_quantized(value) for value in state.values())


def is_quantized(tensor: Any) -> bool:
    """Whether a tensor is torchao's, which isn't imported for that."""
    return type(tensor).__module__.partition(".")[0] == PACKAGE


def quantize(
    module: Any, config: Any, name: str, fits: Callable[[Any], bool], wanted: str, *, tables: bool = False
) -> tuple[int, int]:
    """Quantize the linear layers of a module in place; how many of how many.

    Args:
        module: on its device, at the type that its other numbers have.
        config: torchao's.
        name: of the recipe.
        fits: whether the recipe can do a linear layer; torchao leaves others as they are, or fails.
        wanted: what it takes to fit, for the error.
        tables: whether large lookup tables become int8 too, and count.

    Raises:
        ModelError: the module has no linear layers, or none was quantized.

    """
    import torch

    ao = load_torchao(f"precision: {name}")
    # What nn.MultiheadAttention projects its output with is read by torch's kernels, not called.
    unread = torch.nn.modules.linear.NonDynamicallyQuantizableLinear
    linear = [each for each in module.modules() if isinstance(each, torch.nn.Linear)]
    chosen = {id(each) for each in linear if not isinstance(each, unread) and fits(each)}
    with quiet():
        ao.quantize_(module, config, filter_fn=lambda each, _: id(each) in chosen)
    layers = len(linear) + (sum(is_large(each) for each in module.modules()) if tables else 0)
    if tables:
        quantize_tables(module)
    done = count_quantized(module)
    if not done:
        raise ModelError(
            f"precision {name}: none of the model's {len(linear):,} linear layers could be quantized ({wanted}): use fp32, bf16 or fp16"
        )
    return done, layers


def rounds_inputs(module: Any) -> bool:
    """Whether a layer of a quantized module rounds its inputs when they come, which pays only where it is compiled."""
    return any(getattr(_weight(each), "act_quant_kwargs", None) is not None for each in module.modules())


def count_quantizable(module: Any) -> int:
    """Linear layers of a module, and those of its lookup tables that came quantized."""
    import torch

    tables = (each for each in module.modules() if isinstance(each, torch.nn.Embedding))
    return sum(isinstance(each, torch.nn.Linear) for each in module.modules()) + sum(
        is_quantized(_weight(each)) for each in tables
    )


def count_quantized(module: Any) -> int:
    """Layers of a module whose weights are quantized."""
    return sum(is_quantized(_weight(each)) for each in module.modules()) + count_tables(module)


def _weight(layer: Any) -> Any:
    """A layer's parameter of that name, None where it has none; a property of that name isn't asked."""
    return dict(layer.named_parameters(recurse=False)).get("weight")
