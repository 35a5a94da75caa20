from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from batchinfer.engines.device import resolve_device
from batchinfer.errors import ModelError


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
