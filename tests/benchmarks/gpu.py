"""Text on a GPU, inline, without Ray and polars: tokens a second, share of the measured matrix peak, share of time on the device."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.compare import text_input
from tests.benchmarks.models import ROOT, model_folder
from tests.benchmarks.turns import last_line

MATRIX = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the matrices whose product measures the peak."""
PEAK_SECONDS = 2.0


def gpu(folder: Path, rows: int, precision: str, threads: int, device: str) -> dict[str, Any]:
    """Embed the texts of the other benchmarks in a process of its own, and compare with the device's peak.

    Multiplications and additions are those of the layers' matrices: attention itself, a tenth at 256 tokens, isn't counted. The
    share of time on the device is that of calls of the model, each from handing over a batch to having its result on the host.

    Raises CalledProcessError where the program fails, ValueError where it imported Ray or polars.
    """
    source = text_input(folder, rows)
    settings = [f"precision={precision}", f"threads={threads}", f"gpus={0 if device == 'cpu' else 1}"]
    code = (
        "import json, sys\nfrom tests.benchmarks import programs\nprograms.main()\n"
        "print(json.dumps(sorted({'ray', 'polars'} & {*sys.modules})), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "ours-text", str(source), str(folder / "out" / "gpu"), *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    imported = json.loads(done.stderr.splitlines()[-1])
    if imported:
        raise ValueError(f"an inline run imported {', '.join(imported)}")
    told = last_line(done.stdout)
    peak = matrix_peak(device, "bfloat16" if precision == "bf16" else "float32")
    return {
        "benchmark": "gpu",
        "device": device,
        **machine.facts(),
        "precision": precision,
        **shares(told, peak, parameters()),
    }


def shares(told: dict[str, Any], peak: float, parameters: int) -> dict[str, Any]:
    """The figures of a program's result line.

    Args:
        told: the line, with seconds since the epoch.
        peak: of the device, in multiplications and additions a second.
        parameters: numbers in the matrices that each token passes through.

    """
    steady = told["written"] - told["ready"]
    return {
        "rows": told["rows"],
        "steady_s": round(steady, 3),
        "rows_per_s": round(told["rows"] / steady, 1),
        "tokens_per_s": round(told["tokens"] / steady, 1),
        "padding": round(1 - told["tokens"] / told["padded_tokens"], 4),
        "peak_tflops": round(peak / 1e12, 3),
        "share_of_peak": round(2 * parameters * told["tokens"] / steady / peak, 4),
        "share_of_peak_on_device": round(2 * parameters * told["padded_tokens"] / told["infer_s"] / peak, 4),
        "on_device": round(told["infer_s"] / steady, 4),
        "waiting": round(told["wait_s"] / steady, 4),
    }


def parameters() -> int:
    """Numbers in MiniLM's layers: without the embedding tables, which are looked up, and the pooler, which isn't used."""
    from safetensors import safe_open

    with safe_open(model_folder() / "model.safetensors", "np") as file:
        names = [n for n in file.keys() if ".layer." in n and n.endswith("weight") and "LayerNorm" not in n]  # noqa: SIM118
        return sum(file.get_tensor(name).size for name in names)


def matrix_peak(device: str, dtype: str) -> float:
    """Multiplications and additions a second of a product of large square matrices, the best of several."""
    import torch

    size = MATRIX["cpu" if device == "cpu" else "cuda"]
    left = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        (left @ left)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
