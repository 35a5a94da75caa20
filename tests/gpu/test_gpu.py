"""Run by `nox -s gpu` on a machine with CUDA; left out of the default selection."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu_and_needs_neither_ray_nor_polars() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.gpu.check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.gpu
def test_threads_that_call_a_module_at_a_time_have_cuda_streams_of_their_own_and_give_the_same() -> None:
    import torch

    from batchinfer.engines.replicas import Replicas

    module = torch.nn.Linear(512, 512).eval().to("cuda")
    replicas, rows = Replicas(module, "cuda", 1), torch.randn(4096, 512).pin_memory()

    def call(_: int) -> tuple[int, torch.Tensor]:
        with torch.inference_mode(), replicas.stream():
            given = replicas.here()(rows.to("cuda", non_blocking=True)).cpu()
            return torch.cuda.current_stream().cuda_stream, given

    barrier = threading.Barrier(2, timeout=60)
    with ThreadPoolExecutor(2, initializer=barrier.wait) as pool:
        called = list(pool.map(call, range(16)))
    assert {stream for stream, _ in called}.isdisjoint({torch.cuda.default_stream().cuda_stream})
    assert all(torch.equal(given, called[0][1]) for _, given in called)
