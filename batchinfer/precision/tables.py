"""Lookup tables (nn.Embedding) of eight bits: a row is kept as int8 with a scale, and becomes numbers when it is looked up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

LEAST = 1 << 20
"""Numbers of a table from which on it is quantized. MiniLM's words (12 million) are half of the model; its positions and token types (0.2
million) are 2 %, and every table costs a second small lookup."""


def quantize_tables(module: Any) -> int:
    """Exchange a module's large lookup tables, in place, and tell how many are int8 now.

    torchao's tensors won't do: they make the whole table into numbers at each lookup (67 ms instead of 0.06 for 1,024 tokens of MiniLM).
    What it brings, by MiniLM on a CPU: 22 MiB for 33 at int8-weight, 23 for 56 at int8, 24 for 57 at int4-weight. What it costs: 0.1 ms
    in a batch of 1,024 tokens, which takes tens, and hardly any agreement with fp32 (int8-weight: mean cosine .99949 for .99951, 1st
    percentile .9991 for .9992).

    Left alone are tables that do more in a lookup than read (subclasses, `max_norm`, hooks), and those whose weights are another layer's
    too, as nothing would be saved. Tables that share their weights share the int8 ones.
    """
    kept = {
        id(parameter)
        for each in module.modules()
        if not _is_plain(each)
        for parameter in each.parameters(recurse=False)
    }
    made: dict[int, Any] = {}
    for parent in list(module.modules()):
        for name, each in list(parent._modules.items()):
            if _is_plain(each) and is_large(each) and id(each.weight) not in kept:
                if id(each.weight) not in made:
                    made[id(each.weight)] = _int8(each.weight.detach())
                setattr(parent, name, made[id(each.weight)])
    return count_tables(module)


def is_large(layer: Any) -> bool:
    """Whether a layer is a lookup table that is worth quantizing."""
    import torch

    return isinstance(layer, torch.nn.Embedding) and layer.weight.numel() >= LEAST


def count_tables(module: Any) -> int:
    """Lookup tables of a module that `quantize_tables` made."""
    return sum(isinstance(each, _table_class()) for each in module.modules())


def tables_of(module: Any) -> list[str]:
    """Names of the lookup tables of a module that `quantize_tables` made; all names of one that has several."""
    named = module.named_modules(remove_duplicate=False)
    return [name for name, each in named if isinstance(each, _table_class())]


def empty_tables(module: Any, names: Sequence[str]) -> None:
    """Put int8 tables without numbers in place of a module's own, to be filled from a state dict; both are on the device `meta`."""
    import torch

    for name in names:
        owner, _, own = name.rpartition(".")
        rows, width = module.get_submodule(name).weight.shape
        empty = torch.empty(rows, width, dtype=torch.int8, device="meta"), torch.empty(rows, 1, device="meta")
        setattr(module.get_submodule(owner), own, _table_class()(*empty))


def _is_plain(layer: Any) -> bool:
    import torch

    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    return type(layer) is torch.nn.Embedding and layer.max_norm is None and not any(hooks)


def _int8(weight: Any) -> Any:
    """A table of these weights, shape (rows, width), that gives numbers of their type."""
    import torch

    rows = torch.empty_like(weight, dtype=torch.int8)
    scale = torch.empty_like(weight[:, :1])
    step = max(1, LEAST // weight.shape[1])  # by parts, or the quotients would take four times what is saved
    for at in range(0, len(weight), step):
        part = weight[at : at + step].float()
        most = (part.abs().amax(1, keepdim=True) / 127).to(scale.dtype)
        scale[at : at + step] = most.clamp_min(torch.finfo(scale.dtype).tiny)  # a row of zeros is divided by it too
        rows[at : at + step] = (part / scale[at : at + step].float()).round_().clamp_(-127, 127)
    return _table_class()(rows, scale)


@cache
def _table_class() -> Any:
    """The module's class, made where torch is there."""
    import torch
    from torch.nn.functional import embedding

    class Int8Table(torch.nn.Module):  # type: ignore[misc]
        """Gives the rows of a table by their numbers, as nn.Embedding does.

        Both tensors are parameters, which calls that run at a time share.
        """

        def __init__(self, rows: torch.Tensor, scale: torch.Tensor) -> None:
            super().__init__()
            self.rows = torch.nn.Parameter(rows, requires_grad=False)
            """int8, shape (rows, width)."""
            self.scale = torch.nn.Parameter(scale, requires_grad=False)
            """Floating, shape (rows, 1), of the type that a lookup gives: a model asks its parameters what it computes in."""

        @property
        def weight(self) -> torch.Tensor:
            """All of it as numbers, for models that read a table besides looking up in it; made at each call."""
            return self.rows.to(self.scale.dtype) * self.scale

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            """Numbers of shape (*ids.shape, width)."""
            return embedding(ids, self.rows).to(self.scale.dtype) * embedding(ids, self.scale)

        def extra_repr(self) -> str:
            return f"{len(self.rows)}, {self.rows.shape[1]}"

    return Int8Table
