"""Linear layers on x86 CPUs by oneDNN, with their weights in the order in which it multiplies, and what follows them done in passing.

The numbers have the same type, and the results other last bits.
"""

from __future__ import annotations

import itertools
import platform
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from batchinfer.precision import processor

LEAST = 1 << 11
"""Weights of a layer from which on it is packed; calling oneDNN costs some microseconds more than a small product takes."""
ROWS = 1024
"""For which the order is chosen: those of a usual batch on a CPU, which is no bound."""


def pack(module: Any) -> int:
    """Exchange the linear layers of a module on the CPU, in place, where that pays, and tell how many.

    bfloat16 is multiplied by oneDNN anyway, which brings plain weights into its order at each call (MiniLM: 1.03 times the pace at one
    thread, 1.1 at two). float32 is multiplied by MKL, which has no kernels of its own for processors of other makers (on an EPYC, MiniLM:
    1.09 and 1.13, a network of 32-128-64-1: 1.2 and 1.25); on Intel's it stays with it, as the other was not measured there.

    Left alone are layers that do more than multiply (subclasses, hooks), whose weights are another layer's too, or are read past
    them by torch's own encoder layers.
    """
    import torch

    if platform.machine() not in ("x86_64", "AMD64") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return 0
    dtypes = set()
    if torch.backends.mkldnn.is_available():
        dtypes |= {torch.float32} if processor.vendor() != "GenuineIntel" else set()
        dtypes |= {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    uses = Counter(id(p) for each in module.modules() for p in each.parameters(recurse=False))
    done = 0
    for parent in list(module.modules()):
        if isinstance(parent, torch.nn.TransformerEncoderLayer | torch.nn.TransformerDecoderLayer):
            continue
        followed = dict(_followed(parent))
        for name, each in list(parent._modules.items()):
            if not _is_plain(each) or each.weight.dtype not in dtypes or uses[id(each.weight)] > 1:
                continue
            then, attribute, algorithm = followed.get(name, (None, "none", ""))
            setattr(parent, name, _packed_class()(each, attribute, algorithm))
            if then is not None:
                setattr(parent, then, torch.nn.Identity())
            done += 1
    return done


def _followed(parent: Any) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """Children whose output goes to an activation and nowhere else: the name, and that of the activation with what oneDNN calls it."""
    import torch

    children = list(parent._modules.items())
    in_turn = type(parent) is torch.nn.Sequential
    # Dense, then activation: what all these classes of transformers do.
    intermediate = type(parent).__module__.startswith("transformers.models.") and [n for n, _ in children] == [
        "dense",
        "intermediate_act_fn",
    ]
    if in_turn or intermediate:
        for (name, _), (then, activation) in itertools.pairwise(children):
            if (known := _known(activation)) is not None:
                yield name, (then, *known)


def _known(activation: Any) -> tuple[str, str] | None:
    """oneDNN's name of an activation, and of the way that it is computed; None for one that stays as it is."""
    import torch

    if activation is None or _hooked(activation):
        return None
    if type(activation) is torch.nn.ReLU:
        return "relu", ""
    exact = type(activation) is torch.nn.GELU and activation.approximate == "none"
    if exact or getattr(activation, "act", None) is torch.nn.functional.gelu:  # transformers' own class of it
        return "gelu", "none"
    return None


def _is_plain(layer: Any) -> bool:
    import torch

    return type(layer) is torch.nn.Linear and layer.weight.numel() >= LEAST and not _hooked(layer)


def _hooked(layer: Any) -> bool:
    return any((layer._forward_hooks, layer._forward_pre_hooks))


@cache
def _packed_class() -> Any:
    """The module's class, made where torch is there."""
    import torch

    class PackedLinear(torch.nn.Module):  # type: ignore[misc]
        """Multiplies rows with the weights of a linear layer, adds its bias, and applies an activation."""

        def __init__(self, layer: Any, attribute: str, algorithm: str) -> None:
            super().__init__()
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.bias = layer.bias
            self._attribute, self._algorithm = attribute, algorithm
            self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)

        @property
        def weight(self) -> torch.Tensor:
            """As the layer had them, for models that read them besides; brought into that order at each call."""
            return self._packed.to_dense()

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            """Shape (*, in_features) to (*, out_features)."""
            return torch.ops.mkldnn._linear_pointwise(
                rows, self._packed, self.bias, self._attribute, [], self._algorithm
            )

        def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
            return self  # nothing in it changes, so that calls at the same time share it

        def extra_repr(self) -> str:
            return f"{self.in_features}, {self.out_features}, then {self._attribute}"

    return PackedLinear
