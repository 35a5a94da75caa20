"""The comparisons: batchinfer beside the loops by hand and the peers, in one round after the other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchinfer.measure.choose import CPU_TOKENS
from tests.benchmarks import agreement, inputs, machine, turns, whole
from tests.benchmarks.models import ROOT
from tests.benchmarks.programs import text_model
from tests.benchmarks.rounds import Round


@dataclass(frozen=True)
class Comparison:
    """Programs that do the same work."""

    name: str
    column: str
    """What they compute."""
    conditions: dict[str, Any]
    programs: dict[str, list[str]]
    """Arguments of `tests.benchmarks.programs`, or for whole processes a module and its arguments."""
    outputs: dict[str, Path]
    baseline: str
    ours: str
    seconds: str = "steady_s"
    """The figure that is compared."""
    usual: tuple[str, ...] = field(default=())
    """Programs that run unless others are chosen; all where empty."""

    def choose(self, wanted: Sequence[str]) -> list[str]:
        """The programs to run, in order. Raises ValueError for one that isn't there."""
        if unknown := [name for name in wanted if name not in self.programs]:
            raise ValueError(f"{self.name} has no program {', '.join(unknown)}; it has {', '.join(self.programs)}")
        chosen = wanted or self.usual or tuple(self.programs)
        return [name for name in self.programs if name in chosen]

    def round(self, number: int, wanted: Sequence[str]) -> Round:
        """Run the programs once, the first of them by the round's number.

        Raises ValueError where they don't compute the same, CalledProcessError where one fails.
        """
        names = self.choose(wanted)
        order = list(itertools.islice(itertools.cycle(names), number % len(names), number % len(names) + len(names)))
        programs = {name: self.programs[name] for name in order}
        facts = machine.facts()
        results = whole.run(programs) if self.seconds == "end_to_end_s" else turns.run(programs, str(ROOT))
        for name in names[1:]:
            results[name] |= agreement.check(self.outputs[name], self.outputs[names[0]], self.column)
        return Round(self.name, self.conditions, facts, {name: results[name] for name in names})


def text(folder: Path, rows: int, precision: str, threads: int) -> Comparison:
    """MiniLM embeddings, steady, in turns. The loop has batches of 2,048 tokens, or with `-as-ours` as many as we take."""
    source = text_input(folder, rows)
    at = [f"precision={precision}", f"threads={threads}"]
    each = [f"precision={precision}", "threads=1", f"workers={threads}", f"tokens={CPU_TOKENS}"]
    one = [*at, f"tokens={CPU_TOKENS}"]
    programs = {
        "loop": ["bare-text", *at],
        "loop-as-ours": ["bare-text", *one],
        "inline": ["ours-text", *at],
        "ray": ["ours-text", *at, "executor=ray"],
        "ray-data-documented": ["ray-text", "form=documented", "precision=fp32", f"threads={threads}"],
        "ray-data-fused": ["ray-text", "form=fused", *each],
        "ray-data-fused-1024": ["ray-text", "form=fused", "batch=1024", *each],
        "ray-data-fused-one-actor": ["ray-text", "form=fused", "batch=1024", *one],
        "ray-data-split": ["ray-text", "form=split", *each],
        "daft": ["daft-text", *each],
        "daft-1024": ["daft-text", "batch=1024", *each],
        "daft-one-process": ["daft-text", "batch=1024", *one],
        "daft-own-process": ["daft-text", f"precision={precision}", "threads=1", "workers=0", f"tokens={CPU_TOKENS}"],
        "beam": ["beam-text", *one],
        "beam-processes": ["beam-text", *each],
    }
    usual = ("loop", "loop-as-ours", "inline", "ray", "ray-data-fused", "ray-data-split", "daft")
    conditions = {"rows": rows, "precision": precision, "threads": threads}
    return _in_turns("text", "embedding", conditions, programs, source, folder, "loop", usual)


def table(folder: Path, rows: int, precision: str, threads: int) -> Comparison:
    """32 floats a row into a small network, steady, in turns; always fp32."""
    del precision
    source = folder / f"table-{rows}"
    if not source.exists():
        inputs.make_table(source, rows)
    weights = folder / "scorer.safetensors"
    inputs.make_network(weights)
    at, mine = f"threads={threads}", f"weights={weights}"
    programs = {
        "loop": ["loop-table", at],
        "inline": ["ours-table", at, mine],
        "ray": ["ours-table", at, mine, "executor=ray"],
        "ray-data": ["ray-table", at],
        "ray-data-250k": ["ray-table", at, "batch=250000"],
        "ray-data-actors": ["ray-table", "threads=1", f"workers={threads}"],
        "daft": ["daft-table", "threads=1", "workers=0"],
        "daft-one-process": ["daft-table", at, "workers=1"],
        "daft-processes": ["daft-table", "threads=1", f"workers={threads}"],
    }
    usual = ("loop", "inline", "ray", "ray-data", "daft")
    return _in_turns("table", "score", {"rows": rows, "threads": threads}, programs, source, folder, "loop", usual)


def _in_turns(
    name: str,
    column: str,
    conditions: dict[str, Any],
    programs: dict[str, list[str]],
    source: Path,
    folder: Path,
    baseline: str,
    usual: tuple[str, ...],
) -> Comparison:
    outputs = {program: folder / "out" / f"{name}-{program}" for program in programs}
    commands = {p: [kind, str(source), str(outputs[p]), *more] for p, (kind, *more) in programs.items()}
    return Comparison(name, column, conditions, commands, outputs, baseline, "inline", usual=usual)


def defaults(folder: Path, rows: int, precision: str, threads: int) -> Comparison:
    """From command to finished files with nothing tuned: `precision: auto` beside Ray Data as its documentation shows it."""
    del precision
    source = text_input(folder, rows)
    job = {"input": {"path": str(source)}, "model": text_model("auto"), "output": {"carry": ["id"]}}
    peers = {"ray-data-documented": ["ray-text", "form=documented", "precision=fp32", f"threads={threads}"]}
    conditions = {"rows": rows, "threads": threads}
    return _whole("defaults", "embedding", conditions, {"batchinfer": job}, peers, source, folder)


def short(folder: Path, rows: int, precision: str, threads: int) -> Comparison:
    """From command to finished files, a job of some 15 seconds with everything given, beside the peers at their best."""
    source = text_input(folder, rows)
    job = {
        "input": {"path": str(source)},
        "model": text_model(precision)
        | {"outputs": {"embedding": {"column": "embedding", "type": "fixed_size_list<float32>[384]"}}},
        "batching": {"rows": 512, "tokens": CPU_TOKENS},
        "resources": {"executor": "inline", "cpus": threads, "gpus": 0},
        "output": {"carry": ["id"]},
    }
    at = [f"precision={precision}", f"tokens={CPU_TOKENS}"]
    each = [*at, "threads=1", f"workers={threads}", "batch=256"]  # so few rows that larger ones leave a model without
    peers = {
        "loop": ["bare-text", f"threads={threads}", *at],
        "ray-data-fused": ["ray-text", "form=fused", *each],
        "ray-data-split": ["ray-text", "form=split", *each],
        "daft": ["daft-text", *each],
        "daft-own-process": ["daft-text", *at, "threads=1", "workers=0", "batch=256"],
    }
    conditions = {"rows": rows, "precision": precision, "threads": threads}
    return _whole("short", "embedding", conditions, {"batchinfer": job}, peers, source, folder)


def _whole(
    name: str,
    column: str,
    conditions: dict[str, Any],
    jobs: dict[str, dict[str, Any]],
    peers: dict[str, list[str]],
    source: Path,
    folder: Path,
) -> Comparison:
    outputs = {program: folder / "out" / f"{name}-{program}" for program in (*jobs, *peers)}
    commands: dict[str, list[str]] = {}
    for program, sections in jobs.items():
        path = folder / f"{name}-{program}.yaml"  # JSON is YAML
        output = sections["output"] | {"path": str(outputs[program])}
        path.write_text(json.dumps({"version": 1, "name": name, **sections, "output": output}, indent=1))
        commands[program] = ["batchinfer", "run", "--restart", "--progress", "none", str(path)]
    for program, (kind, *more) in peers.items():
        commands[program] = ["tests.benchmarks.programs", kind, str(source), str(outputs[program]), *more]
    baseline = next(iter(peers))
    return Comparison(name, column, conditions, commands, outputs, baseline, next(iter(jobs)), "end_to_end_s")


def text_input(folder: Path, rows: int) -> Path:
    """The texts, made where they lack."""
    source = folder / f"text-{rows}"
    if not source.exists():
        inputs.make_text(source, rows)
    return source


COMPARISONS = {
    "text": (text, 12_000),
    "table": (table, 24_000_000),
    "defaults": (defaults, 12_000),
    "short": (short, 1500),
}
"""How each is made, and rows that it takes unless told otherwise: 60 seconds and more on two cores, or 15 for `short`."""
