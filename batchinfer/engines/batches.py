"""What modules of torch are called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TensorBatch:
    """Tensors by input name, each with `rows` rows along its first axis, on the CPU."""

    rows: int
    tensors: Mapping[str, Any]
