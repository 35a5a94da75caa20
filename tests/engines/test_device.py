from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from batchinfer.engines.device import resolve_device
from batchinfer.errors import ModelError
from batchinfer.precision import recipes


@pytest.mark.parametrize(("cuda", "mps", "device"), [(1, 0, "cuda"), (1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_the_fastest_device_that_is_there_is_taken(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: int, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert resolve_device(None) == device
    assert resolve_device(0) == "cpu"
    if device == "cpu":
        with pytest.raises(ModelError, match=r"resources\.gpus is 0\.5, but torch .* sees no GPU"):
            resolve_device(0.5)
    else:
        assert resolve_device(1) == device


def test_no_gpu_asked_for_needs_no_torch() -> None:
    code = "import sys; from batchinfer.engines.device import resolve_device as r; r(0); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_recipes_convert_a_module_and_refuse_what_they_do_not_know() -> None:
    module = torch.nn.Linear(2, 2)
    assert recipes.apply(module, "fp32").weight.dtype == recipes.dtype("fp32") == torch.float32
    assert recipes.apply(module, "bf16").weight.dtype == recipes.dtype("bf16") == torch.bfloat16
    with pytest.raises(ModelError, match="no precision fp8: use one of fp32, bf16"):
        recipes.apply(module, "fp8")
