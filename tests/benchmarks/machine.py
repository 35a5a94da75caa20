"""What a round was measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from tests.benchmarks.models import ROOT

PACKAGES = ("torch", "transformers", "pyarrow", "polars", "ray", "daft", "apache-beam")


def facts() -> dict[str, Any]:
    """CPU, cores, versions, commit and time."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    """Its model, and which of the instructions for matrices it has: what a virtual machine calls it says little."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = [f for f in ("avx2", "avx512_vnni", "avx512_bf16", "amx_bf16") if f in known.get("flags", "").split()]
    return " ".join([known.get("model name", platform.machine()), *flags])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """With `+` where files differ from it; None outside a repository."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()
