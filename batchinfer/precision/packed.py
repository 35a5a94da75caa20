"""Linear layers on x86 CPUs by oneDNN, with their weights in the order in which it multiplies, and what follows them done in passing.

The numbers have the same type, and the results other last bits.
"""

from __future__ import annotations

import platform
from collections import Counter
from functools import cache
from typing import Any, NamedTuple

from batchinfer.precision import processor

LEAST = 1 << 11
"""Weights of a layer from which on it is packed; calling oneDNN costs some microseconds more than a small product takes."""
ROWS = 1024
"""For which the order is chosen: those of a usual batch on a CPU, which is no bound."""

_NOTHING = "none", ""
"""oneDNN's name of no activation, and of the way that it is computed."""


def pack(module: Any) -> int:
    """Exchange the linear layers of a module on the CPU, in place, where that pays, and tell how many.

    bfloat16 is multiplied by oneDNN anyway, which brings plain weights into its order at each call (MiniLM: 1.03 times the pace at one
    thread, 1.1 at two). float32 is multiplied by MKL, which has no AVX-512 kernels for processors of other makers than Intel: on an EPYC
    that has these instructions, MiniLM gets 1.09 and 1.13 times the pace, a network of 32-128-64-1 1.2 and 1.25. On a Xeon (Cascade
    Lake) MiniLM keeps its pace, and that network, whose ReLU is done in passing, gets 1.6 to 2.1 times. Where that was not measured, as
    without AVX-512 and where Linux doesn't tell, it stays with MKL.

    Left alone are layers that do more than multiply (subclasses, hooks), whose weights are another layer's too, or are read past
    them by torch's own encoder layers.
    """
    import torch

    if platform.machine() not in ("x86_64", "AMD64") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return 0
    dtypes = set()
    if torch.backends.mkldnn.is_available():
        dtypes |= {torch.float32} if "avx512f" in processor.flags() else set()
        dtypes |= {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    uses = Counter(id(p) for each in module.modules() for p in each.parameters(recurse=False))
    done = 0
    for parent in list(module.modules()):
        if isinstance(parent, torch.nn.TransformerEncoderLayer | torch.nn.TransformerDecoderLayer):
            continue
        for name, each in list(parent._modules.items()):
            if _is_plain(each) and each.weight.dtype in dtypes and uses[id(each.weight)] == 1:
                setattr(parent, name, _classes().linear(each))
                done += 1
        if type(parent) is torch.nn.Sequential:
            parent.__class__ = _classes().sequential
        elif type(parent).__module__.startswith("transformers.models."):
            _join(parent)
    return done


def _join(parent: Any) -> None:
    """Have a layer compute the activation that follows it in the feed-forward part of an encoder: all these classes call one, then the
    other.
    """
    import torch

    names, parts = list(parent._modules), list(parent._modules.values())
    if names != ["dense", "intermediate_act_fn"] or not isinstance(parts[0], _classes().linear):
        return
    if (known := _known(parts[1])) is not None:
        parts[0].then = known
        parent.intermediate_act_fn = torch.nn.Identity()


def _known(activation: Any) -> tuple[str, str] | None:
    """oneDNN's name of an activation, and of the way that it is computed; None for one that stays as it is."""
    import torch

    if activation is None or _hooked(activation):
        return None
    if type(activation) is torch.nn.ReLU:
        return "relu", ""
    kind = type(activation)
    exact = kind is torch.nn.GELU and activation.approximate == "none"
    own = (kind.__module__, kind.__name__) == ("transformers.activations", "GELUActivation")
    if exact or (own and activation.act is torch.nn.functional.gelu):
        return "gelu", "none"
    return None


def _is_plain(layer: Any) -> bool:
    import torch

    return type(layer) is torch.nn.Linear and layer.weight.numel() >= LEAST and not _hooked(layer)


def _hooked(layer: Any) -> bool:
    return any((layer._forward_hooks, layer._forward_pre_hooks))


class _Classes(NamedTuple):
    linear: Any
    sequential: Any


@cache
def _classes() -> _Classes:
    """The modules' classes, made where torch is there."""
    import torch
    from torch.nn.functional import linear

    class PackedLinear(torch.nn.Module):  # type: ignore[misc]
        """Multiplies rows with the weights of a linear layer, and adds its bias."""

        then = _NOTHING
        """What is done with the sums in passing."""

        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.bias, self._dtype = layer.bias, layer.weight.dtype
            self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)

        @property
        def weight(self) -> torch.Tensor:
            """As the layer had them, for models that read them besides; brought into that order at each call."""
            return self._packed.to_dense()

        def forward(self, rows: torch.Tensor, then: tuple[str, str] | None = None) -> torch.Tensor:
            """Shape (*, in_features) to (*, out_features)."""
            if rows.dtype != self._dtype or rows.shape[-1] != self.in_features:
                linear(rows, self.weight, self.bias)  # which says what is wrong with them; oneDNN doesn't
            name, way = then or self.then
            return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, name, [], way)

        def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
            return self  # nothing in it changes, so that calls at the same time share it

        def extra_repr(self) -> str:
            return f"{self.in_features}, {self.out_features}"

    class PackedSequential(torch.nn.Sequential):  # type: ignore[misc]
        """Calls its parts in turn, an activation together with the packed layer before it; who goes through them gets each alone."""

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            parts = list(self._modules.values())
            at = 0
            while at < len(parts):
                part, following = parts[at], parts[at + 1] if at + 1 < len(parts) else None
                known = _known(following) if type(part) is PackedLinear and not _hooked(part) else None
                rows = part(rows) if known is None else part(rows, known)
                at += 1 if known is None else 2
            return rows

    return _Classes(PackedLinear, PackedSequential)
