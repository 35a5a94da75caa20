"""Which device a worker's models run on."""

from __future__ import annotations

import platform
from pathlib import Path


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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    known = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{device} {platform.machine()} {next(known, platform.processor())}".strip()
