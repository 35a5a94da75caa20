"""A small module with layers that every recipe can do and one that not every can, as a file that a job may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from batchinfer.job.steps import Step

SOURCE = """
import torch


class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(64, 96)
        self.norm = torch.nn.LayerNorm(96)
        self.last = torch.nn.Linear(96, 33)
        self.odd = torch.nn.Linear(33, 7)
        self.register_buffer("shift", torch.full((7,), 0.25), persistent=False)

    def forward(self, x):
        return self.odd(self.last(self.norm(self.first(x))).relu()) + self.shift
"""


def tower(folder: Path) -> Any:
    """The module, and its source as `towers_of_a_job.py` in `folder`."""
    (folder / "towers_of_a_job.py").write_text(SOURCE)
    namespace: dict[str, Any] = {"__name__": "towers_of_a_job"}
    exec(compile(SOURCE, "towers_of_a_job.py", "exec"), namespace)
    torch.manual_seed(5)
    return namespace["Tower"]().eval()


def step(weights: Path, precision: str = "auto", uri: str = "towers_of_a_job:Tower") -> Step:
    options = {"weights": str(weights)} if ":" in uri else {}
    keys = {"engine": "torch", "uri": uri, "inputs": {"x": "x"}, "outputs": {"y": "y"}}
    return Step.model_validate({**keys, "options": options, "precision": precision})


def rows(count: int) -> pa.Table:
    torch.manual_seed(6)
    flat = pa.array(torch.randn(count * 64).numpy())
    return pa.table({"x": pa.FixedSizeListArray.from_arrays(flat, 64)})


def answers(engine: Any, table: pa.Table) -> torch.Tensor:
    got = engine.finish(engine.infer(engine.prepare(table).batch(slice(0, len(table)))))["y"]
    return torch.from_numpy(got.flatten().to_numpy().reshape(len(table), -1).copy())
