"""How one vector is made of a text's token vectors, as the modules of sentence-transformers say: pooled, then layer after layer.

Shapes and formulas are those of sentence-transformers (https://sbert.net, modules Pooling, Dense and Normalize); all in float32.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from batchinfer.errors import ModelError

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Ways of pooling. Of several the vectors follow each other."""
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
"""Classes of torch.nn, with their defaults."""
_LEAST = 1e-9
"""Of what is divided by."""


class Layer(Protocol):
    """What comes after pooling."""

    def size(self, given: int, where: str) -> int:
        """Of the vectors that it gives, for the size of those that it is given. Raises ModelError where it takes others."""

    def load(self) -> None:
        """Read its weights. Raises ModelError."""

    def compute(self, vectors: Any) -> Any:
        """Vectors of shape (rows, size), where those are that it is given."""


@dataclass(frozen=True)
class Normalize:
    """To length 1."""

    def size(self, given: int, where: str) -> int:  # noqa: ARG002 - it takes any
        """See Layer."""
        return given

    def load(self) -> None:
        """It has no weights."""

    def compute(self, vectors: Any) -> Any:
        """See Layer."""
        import torch

        return torch.nn.functional.normalize(vectors, dim=1)


@dataclass(frozen=True)
class Dense:
    """A linear layer and an activation, with what goes in added on request."""

    folder: Path
    """With its weights, `model.safetensors` or `pytorch_model.bin`."""
    given: int
    """Size of the vectors that it takes."""
    gives: int
    activation: str
    """One of ACTIVATIONS."""
    bias: bool
    residual: bool
    _there: dict[Any, Mapping[str, Any]] = field(default_factory=dict, compare=False, repr=False)
    """The weights, by the device that they are on."""

    def size(self, given: int, where: str) -> int:
        """See Layer."""
        if given != self.given:
            raise ModelError(f"{where}: {self.folder} takes vectors of {self.given} numbers, and is given {given}")
        return self.gives

    def load(self) -> None:
        """See Layer."""
        shapes: dict[str, tuple[int, ...]] = {"linear.weight": (self.gives, self.given)}
        if self.bias:
            shapes["linear.bias"] = (self.gives,)
        if self.residual and self.given != self.gives:
            shapes["residual.weight"] = (self.gives, self.given)
        found = {name: tuple(tensor.shape) for name, tensor in self._weights.items()}
        if found != shapes:
            raise ModelError(f"{self.folder}: the weights have the shapes {found}, and config.json asks for {shapes}")

    @cached_property
    def _weights(self) -> Mapping[str, Any]:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / "model.safetensors"
        try:
            if path.is_file():
                weights = load_file(path)
            else:
                path = self.folder / "pytorch_model.bin"
                weights = torch.load(path, map_location="cpu", weights_only=True)
            return {name: tensor.float() for name, tensor in weights.items()}
        except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
            raise ModelError(f"{path} holds no weights that can be read: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        """What was read stays here: it may be on a device."""
        return Dense, (self.folder, self.given, self.gives, self.activation, self.bias, self.residual)

    def compute(self, vectors: Any) -> Any:
        """See Layer."""
        import torch

        if vectors.device not in self._there:
            self._there[vectors.device] = {name: tensor.to(vectors.device) for name, tensor in self._weights.items()}
        weights = self._there[vectors.device]
        linear = torch.nn.functional.linear
        given = linear(vectors, weights["linear.weight"], weights.get("linear.bias"))
        answer = getattr(torch.nn, self.activation)()(given)
        if not self.residual:
            return answer
        return answer + (vectors if self.given == self.gives else linear(vectors, weights["residual.weight"]))


def pooled(mode: str, hidden: Any, mask: Any, left_out: int) -> Any:
    """One vector for each text.

    Args:
        mode: one of MODES.
        hidden: token vectors (rows, width, size).
        mask: (rows, width), 1 at tokens, which come before any padding.
        left_out: tokens at the beginning of each text that don't count, as those of a prompt.

    """
    import torch

    width = hidden.shape[1]
    if left_out:
        mask = mask.clone()
        mask[:, :left_out] = 0
    if mode in ("cls", "lasttoken"):
        counted, rows = mask.to(torch.int32), torch.arange(len(hidden), device=hidden.device)
        if mode == "cls":
            return hidden[rows, counted.argmax(1)]
        at = width - 1 - counted.flip(1).argmax(1)
        return hidden[rows, at] * counted[rows, at].unsqueeze(1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    if mode == "max":
        return hidden.masked_fill(weights == 0, float("-inf")).amax(1)
    if mode == "weightedmean":
        weights = weights * torch.arange(1, width + 1, device=hidden.device, dtype=hidden.dtype).view(1, -1, 1)
    counts = weights.sum(1).clamp(min=_LEAST)
    return (hidden * weights).sum(1) / (counts.sqrt() if mode == "mean_sqrt_len_tokens" else counts)
