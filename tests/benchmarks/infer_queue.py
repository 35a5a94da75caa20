"""`python -m tests.benchmarks.infer_queue [--rounds N]`: MiniLM by OpenVINO's own AsyncInferQueue, and by calls of our engine: JSON.

Each takes the same sorted batches of token ids, prepared before, with all cores: the queue as the library's throughput hint sets it
up, ours with a thread for each core, as a job's streams call it, and with one call that has all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openvino
import pyarrow as pa

from batchinfer.engines.graph_files import find_graph
from batchinfer.engines.openvino import engine
from batchinfer.engines.openvino_conversion import converted
from batchinfer.job.steps import Step
from tests.engines.models import minilm_folder, step, texts

BATCH = 32


def timed(work: Callable[[], Any]) -> float:
    """Seconds that it takes, after once for warming up."""
    work()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """All three, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=512)
    asked = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    what: Step = step(str(minilm_folder()), "embedding", {"embedding": "e"}).model_copy(update={"engine": "openvino"})
    ours = {count: engine(what) for count in (1, cores)}
    for count, each in ours.items():
        each.load("cpu", "fp32", cores // count)
    prepared = ours[1].prepare(pa.table({"t": texts(asked.rows)}))
    lengths = prepared.lengths
    assert lengths is not None
    order = lengths.argsort()
    batches = [prepared.batch(order[at : at + BATCH]) for at in range(0, len(order), BATCH)]
    compiled = openvino.Core().compile_model(
        converted(what, find_graph(what)), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    )
    queue = openvino.AsyncInferQueue(compiled)

    def by_queue() -> None:
        for batch in batches:
            queue.start_async(dict(ours[1]._require().feeds(batch)))
        queue.wait_all()

    programs: dict[str, Callable[[], Any]] = {
        "queue": by_queue,
        "threads": lambda: list(pool.map(ours[cores].infer, batches)),
        "one_call": lambda: [ours[1].infer(batch) for batch in batches],
    }
    with ThreadPoolExecutor(cores) as pool:
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(asked.rounds):
            for name, work in programs.items():
                seconds[name].append(timed(work))
    medians = {
        name: statistics.median(q / s for q, s in zip(seconds["queue"], taken, strict=True))
        for name, taken in seconds.items()
    }
    print(json.dumps({"rows": asked.rows, "cores": cores, "pace_of_queue": medians, "seconds": seconds}))


if __name__ == "__main__":
    main()
