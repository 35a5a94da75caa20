"""Which device a worker's models run on: as torch finds it in the worker, and as it is foreseen without torch."""

from __future__ import annotations

import itertools
import os
import platform
import sys
from pathlib import Path

from batchinfer.job.spec import Resources
from batchinfer.precision import processor


def foresee_device(resources: Resources) -> str | None:
    """The device that `resolve_device` will say in the job's workers; None where only a cluster's nodes could tell."""
    if resources.gpus == 0:
        return "cpu"
    if resources.address is not None:
        return None
    if (platform.system(), platform.machine()) == ("Darwin", "arm64"):
        return "mps"
    return "cuda" if resources.gpus != "auto" or gpu_count() else "cpu"


def gpu_count() -> int:
    """NVIDIA GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA takes the entries up to the first that names no device: -1, or words such as Slurm's NoDevFiles.
        named = (v.strip().isdecimal() or v.strip().startswith(("GPU-", "MIG-")) for v in visible.split(","))
        return len(list(itertools.takewhile(bool, named)))
    try:
        return len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0


def resolve_device(gpus: float | None) -> str:
    """`cuda` if there is one, else `mps`, else `cpu`; `gpus` 0 says `cpu` without importing torch.

    `gpus` is the number asked for per worker, None for whatever is there. Which of several GPUs is the executor's
    business: it sets CUDA_VISIBLE_DEVICES before the worker starts. Raises ModelError when GPUs are asked for and there
    is none: running on the CPU instead would be a silent fallback.
    """
    if gpus == 0:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    if gpus is not None:
        from batchinfer.errors import ModelError

        raise ModelError(
            f"resources.gpus is {gpus:g}, but torch {torch.__version__} sees no GPU here: "
            "set it to 0 or auto, or install a torch build for this machine's GPU"
        )
    return "cpu"


def name_of(device: str) -> str:
    """The kind of a device, for figures that hold on others of its kind too: the GPU's or the processor's name."""
    if device.startswith("cuda"):
        import torch

        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"{device} {platform.machine()} {processor.name() or platform.processor()}".strip()


def gpu_memory(*, begin: bool) -> tuple[str, int, int]:
    """The UUID of this process's GPU, the bytes that it holds there, and those that are free; an empty name without a GPU.

    `begin`: look at one that this process has not used yet, too, which takes a part of its memory.
    """
    if not begin and "torch" not in sys.modules:
        return "", 0, 0
    import torch

    if not torch.cuda.is_available() or not (begin or torch.cuda.is_initialized()):
        return "", 0, 0
    number = torch.cuda.current_device()
    free, _ = torch.cuda.mem_get_info(number)
    return str(torch.cuda.get_device_properties(number).uuid), torch.cuda.memory_reserved(number), free


def gpu_peak() -> int:
    """The most bytes of a GPU's memory that torch took in this process; asks the GPU nothing, so that a broken one can't hold up anybody."""
    if "torch" not in sys.modules:
        return 0
    import torch

    return torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else 0
