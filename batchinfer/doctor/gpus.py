"""GPUs: as the driver has them, as torch sees them, and why these differ."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batchinfer.doctor.finding import Finding, State
from batchinfer.doctor.probe import ProgramError, said_by, said_by_python
from batchinfer.plan.describe import count, size

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits")
_CUDA = re.compile(r"CUDA Version:\s*(\d+)\.(\d+)")
DRIVER_SECONDS, TORCH_SECONDS = 15.0, 90.0
_MIB = 1024**2


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says."""

    version: str
    cuda: tuple[int, int] | None
    """The newest that the driver runs; None where it doesn't say."""
    devices: tuple[tuple[str, int | None, int | None], ...]
    """Name, bytes, free bytes."""


def gpus() -> Iterator[Finding]:
    """Both sides of it."""
    try:
        driver = _driver()
    except FileNotFoundError:
        driver = None
    except ProgramError as error:
        driver = None
        yield Finding("driver", State.WARNING, f"nvidia-smi: {error}", "reinstall or restart NVIDIA's driver")
    try:
        torch = json.loads(said_by_python(["-m", "batchinfer.engines.seen_by_torch"], TORCH_SECONDS).splitlines()[-1])
    except (ProgramError, ValueError, IndexError) as error:
        yield Finding("torch", State.WRONG, f"can't be imported: {error}", "pip install --force-reinstall torch")
        return
    yield from compared(driver, torch, os.environ.get("CUDA_VISIBLE_DEVICES"))


def compared(driver: Driver | None, torch: dict[str, Any], visible: str | None) -> Iterator[Finding]:
    """What to say of the GPUs.

    Args:
        driver: None where there is none.
        torch: see `seen_by_torch.seen`.
        visible: the environment's CUDA_VISIBLE_DEVICES.

    """
    build = "without CUDA" if torch["cuda"] is None else f"for CUDA {torch['cuda']}"
    yield Finding("torch", State.FINE, f"{torch['version']}, built {build}")
    there, seen = driver.devices if driver else (), torch["devices"]
    for number, device in enumerate(seen):
        free = there[number][2] if len(there) == len(seen) else None
        yield Finding("gpu", State.FINE, _words(device, free))
    if torch["mps"]:
        yield Finding("gpu", State.FINE, "Apple's, by Metal (mps)")
    if driver is None:
        if not seen and not torch["mps"]:
            yield Finding("gpu", State.ABSENT, "none: models run on the CPU")
        return
    yield Finding("driver", State.FINE, f"NVIDIA {driver.version}{_runs(driver)}")
    if len(seen) < len(there):
        names = ", ".join(sorted({name for name, _, _ in there}))
        text, advice = _reason(driver, torch, visible, len(there) - len(seen))
        yield Finding(
            "gpu",
            State.WARNING,
            f"{count(len(there), 'GPU')} ({names}), of which torch sees {len(seen)}: {text}",
            advice,
        )


def _reason(driver: Driver, torch: dict[str, Any], visible: str | None, hidden: int) -> tuple[str, str]:
    """Why torch doesn't see a GPU, and what to do."""
    if torch["cuda"] is None:
        name = "" if driver.cuda is None else f"; this driver runs builds for CUDA up to {_version(driver.cuda)}"
        return (
            "this torch is built without CUDA",
            f"pip install --force-reinstall torch (PyPI's build for Linux has CUDA{name})",
        )
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES hides {hidden}", ""
    built = tuple(int(part) for part in str(torch["cuda"]).split(".")[:2])
    if driver.cuda is not None and built > driver.cuda:
        tag = "".join(map(str, driver.cuda))
        return (
            f"it is built for CUDA {torch['cuda']}, and the driver {driver.version} runs {_version(driver.cuda)} at most",
            f"update the driver, or take an older build: pip install torch --index-url https://download.pytorch.org/whl/cu{tag}",
        )
    return "driver and torch don't agree", "python -c 'import torch; torch.cuda.init()' says why"


def _words(device: dict[str, Any], free: int | None) -> str:
    capability = tuple(device["capability"])
    fast = [
        *(["tf32", "bf16"] if capability >= (8, 0) else []),
        *(["fp8"] if capability >= (8, 9) else []),
        *(["fp16"] if capability >= (7, 0) else []),
    ]
    memory = size(device["bytes"]) + (f", {size(free)} free" if free is not None else "")
    makes = f": {', '.join(fast)} {'are' if len(fast) > 1 else 'is'} fast" if fast else ""
    return f"{device['name']}, {memory}, compute capability {_version(capability)}{makes}"


def _driver() -> Driver:
    """Raises FileNotFoundError where there is none, ProgramError where it doesn't answer."""
    rows = [[cell.strip() for cell in line.split(",")] for line in said_by(_QUERY, DRIVER_SECONDS).splitlines()]
    rows = [row for row in rows if len(row) == 4]
    if not rows:
        raise ProgramError("it tells of no GPU")
    match = _CUDA.search(said_by(["nvidia-smi"], DRIVER_SECONDS))
    devices = tuple((name, _bytes(total), _bytes(free)) for name, total, free, _ in rows)
    return Driver(rows[0][3], None if match is None else (int(match[1]), int(match[2])), devices)


def _bytes(mib: str) -> int | None:
    return int(mib) * _MIB if mib.isdecimal() else None


def _runs(driver: Driver) -> str:
    return "" if driver.cuda is None else f", runs CUDA up to {_version(driver.cuda)}"


def _version(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))
