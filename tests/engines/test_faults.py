"""What an exception says of its device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from batchinfer.engines.faults import Fault, fault_of, free_memory


def accelerator_error(code: int | None) -> Exception:
    error = torch.AcceleratorError("CUDA error: whatever it says")
    if code is not None:
        error.error_code = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (MemoryError(), Fault.MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), Fault.MEMORY),
        (accelerator_error(2), Fault.MEMORY),
        (accelerator_error(710), Fault.POISONED),
        (accelerator_error(700), Fault.POISONED),
        (accelerator_error(214), Fault.POISONED),
        (accelerator_error(None), Fault.POISONED),
        (accelerator_error(9), None),
        (RuntimeError("CUDA error: device-side assert triggered"), None),
        (ValueError("out of memory"), None),
        (KeyError("x"), None),
    ],
)
def test_a_fault_is_known_by_type_and_code(error: Exception, fault: Fault | None) -> None:
    assert fault_of(error) is fault


def test_real_allocations_that_fail_are_faults_of_memory() -> None:
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(1 << 50)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 50)
    assert fault_of(torchs.value) is fault_of(numpys.value) is Fault.MEMORY
    free_memory()


@pytest.mark.gpu
def test_a_real_device_out_of_memory_is_a_fault_of_memory_and_goes_on() -> None:
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 45, device="cuda")
    assert fault_of(caught.value) is Fault.MEMORY
    free_memory()
    assert torch.ones(3, device="cuda").sum().item() == 3
