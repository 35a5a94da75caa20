"""What torch sees of this machine's GPUs, as a program: `python -m batchinfer.engines.seen_by_torch` prints it as JSON.

In a process of its own, since a broken driver can crash it or hold it up.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def seen() -> dict[str, Any]:
    """`version`, `cuda` (that torch is built for, or null), `mps`, and `devices`: name, bytes and compute capability of each."""
    import torch

    devices = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            devices.append({"name": found.name, "bytes": found.total_memory, "capability": [found.major, found.minor]})
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "mps": torch.backends.mps.is_available(),
        "devices": devices,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(seen()) + "\n")
