"""Run by `nox -s gpu` on a machine with CUDA; left out of the default selection."""

import subprocess
import sys

import pytest


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu_and_needs_neither_ray_nor_polars() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.gpu.check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
