"""`python -m tests.benchmarks.precisions [--rows N] [--rounds N] [--threads N]`: each engine and precision beside fp32 by hand: JSON.

MiniLM over real texts, in turns in one process: the model alone, so without tokenising and writing. `fp32 by hand` has sorted batches of 32,
all others have the batches that are usual for a CPU; `fp32 as torch has it` shows what packing the layers brings to `transformers fp32`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.engines import registry
from batchinfer.job.steps import Gate, Step
from batchinfer.measure import gate
from batchinfer.measure.choose import CPU_TOKENS, TOKEN_ROWS
from batchinfer.pipeline.batching import Budget, batches, positions
from batchinfer.worker.process import settle
from tests.benchmarks import machine
from tests.benchmarks.models import ROOT, Embedder, Tokeniser
from tests.benchmarks.programs import text_model

Vectors = np.ndarray
BY_HAND = "fp32 by hand"


def by_hand(texts: list[str], threads: int, tokens: int | None = None) -> Callable[[], Vectors]:
    """The loop: texts sorted by length, 32 at a time, or as many as make so many tokens."""
    ids = Tokeniser(threads)(texts)
    order = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
    embed = Embedder("fp32", threads, tokens, 32)

    def run() -> Vectors:
        given = embed([ids[n] for n in order])
        vectors = np.empty_like(given)
        vectors[order] = given
        return vectors

    return run


def ours(engine: str, precision: str, texts: list[str], threads: int) -> Callable[[], Vectors]:
    """An engine at a precision, as a worker has it. Raises ModelError where it can't be loaded."""
    step = Step.model_validate({**text_model(precision), "engine": engine, "name": "model"})
    model = registry.open_engine(step)
    model.load("cpu", precision, threads)
    prepared = model.prepare(pa.table({"text": texts}))
    cut = list(batches(len(prepared), prepared.lengths, Budget(TOKEN_ROWS, CPU_TOKENS)))
    payloads = [prepared.batch(rows) for rows in cut]
    order = np.concatenate([positions(rows) for rows in cut])

    def run() -> Vectors:
        given = [model.finish(model.infer(payload))["embedding"] for payload in payloads]
        vectors = np.empty((len(texts), given[0].type.list_size), np.float32)
        vectors[order] = np.concatenate([column.flatten().to_numpy() for column in given]).reshape(len(texts), -1)
        return vectors

    return run


def candidates(compiled: bool) -> Iterator[tuple[str, str]]:
    """Engines that are installed, and what each can be loaded at here."""
    for engine in ("transformers", "openvino"):
        if engine == "openvino" and not (find_spec("openvino") and find_spec("nncf")):
            continue
        step = Step.model_validate({**text_model("auto"), "engine": engine, "name": "model"})
        for precision in registry.precisions(step, "cpu"):
            if compiled or not registry.compiles(step, precision):
                yield engine, precision


def judged(full: Vectors, other: Vectors) -> dict[str, Any]:
    """What the quality gate says of vectors, by those of full precision."""

    def column(vectors: Vectors) -> dict[str, pa.Array]:
        return {"embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])}

    # As of a sample: were these all rows of the job, nothing would be uncertain.
    verdict = gate.compare(column(full), column(other), Gate(), population=10 * len(full))
    return {"passes": verdict.passed, **{check.metric: round(check.value, 5) for check in verdict.checks}}


def main() -> None:
    """All that there is, in turns."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.precisions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action="store_true", help="those by torch.compile too, which take a minute each")
    asked = parser.parse_args()
    settle(asked.threads, own=True)
    texts = pq.read_table(ROOT / "jobs/data/speeches.parquet")["text"].to_pylist()[: asked.rows]
    runs = {
        BY_HAND: by_hand(texts, asked.threads),
        "fp32 as torch has it": by_hand(texts, asked.threads, CPU_TOKENS),
    }
    for engine, precision in candidates(asked.compiled):
        runs[f"{engine} {precision}"] = ours(engine, precision, texts, asked.threads)
    vectors = {name: run() for name, run in runs.items()}  # also a warm-up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(asked.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    told = {}
    for name, taken in seconds.items():
        ratios = [hand / own for hand, own in zip(seconds[BY_HAND], taken, strict=True)]
        told[name] = {
            "rows_per_s": round(len(texts) / statistics.median(taken), 1),
            "to_fp32_by_hand": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
            **judged(vectors[BY_HAND], vectors[name]),
        }
    print(json.dumps({"rows": len(texts), "threads": asked.threads, **machine.facts(), "precisions": told}, indent=1))


if __name__ == "__main__":
    main()
