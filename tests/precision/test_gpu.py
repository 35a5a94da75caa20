"""Recipes that only a GPU can do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from batchinfer.precision import recipes
from tests.precision.towers import tower


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "quantized", "least"),
    [("tf32", 0, 0.9999), ("int8", 1, 0.99), ("int8-weight", 3, 0.995), ("int4-weight", 2, 0.9), ("fp8", 1, 0.99)],
)
def test_a_gpu_agrees_with_fp32(tmp_path: Path, name: str, quantized: int, least: float) -> None:
    exact, x = tower(tmp_path).cuda(), torch.randn(32, 64, device="cuda")
    applied = recipes.apply(name, tower(tmp_path), "cuda")

    assert applied.quantized == quantized
    with torch.inference_mode():
        rough = applied.module(x if applied.dtype is None else x.to(applied.dtype)).float()
        assert float(torch.nn.functional.cosine_similarity(rough, exact(x)).min()) >= least
