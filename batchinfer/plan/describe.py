"""A plan in words: one list of facts behind the terminal's table, its JSON and the notebook's view."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.engines import registry
from batchinfer.job.steps import AnyStep, Cascade, RulesStep, Step
from batchinfer.pipeline.graph import graph_of

if TYPE_CHECKING:  # a plan shows itself by this module
    from batchinfer.plan.plan import Plan

_SHOWN = 8


@dataclass(frozen=True)
class Fact:
    """One line of the description."""

    key: str | None
    """In JSON; None for what stands there in another form."""
    label: str
    text: str
    value: Any
    """For JSON."""


def describe(plan: Plan) -> list[Fact]:
    """What a plan says, in reading order, the notes last."""
    spec, rows, pruned = plan.spec, plan.rows, plan.pruned
    facts = [
        Fact("name", "job", spec.name, spec.name),
        Fact("input", "input", ", ".join(_paths(plan)), _paths(plan)),
        Fact("files", "files", f"{count(len(plan.files), 'file')}, {size(plan.bytes)}", len(plan.files)),
        Fact(
            "rows",
            "rows",
            f"{rows:,}" + (f" (limit {spec.input.limit:,})" if spec.input.limit is not None else ""),
            rows,
        ),
        Fact(
            "shards",
            "shards",
            f"{count(len(plan.shards), 'shard')}, {count(plan.windows, 'window')} of up to {plan.reading.window:,} rows",
            len(plan.shards),
        ),
    ]
    if plan.reading.where:
        pruning = f"{pruned:,} rows are ruled out by statistics, unread" if pruned else "statistics rule out no rows"
        secret = spec.written is not None and ("input", "where") in spec.written.secret
        where = "(of the environment)" if secret else plan.reading.where
        facts.append(Fact("where", "where", f"{where} ({pruning})", where))
    for node in graph_of(spec).nodes:
        step = node.step
        label = "model" if len(spec.steps) == 1 else step.name
        facts.append(Fact(None, label, _step(step), step.name))
        if isinstance(step, Step) and isinstance(step.cascade, Cascade):
            asked = f"{step.cascade.confidence} is below a threshold at which the answers agree on {step.cascade.agreement:.2%} of the rows"
            facts.append(Fact(None, "when", asked, step.when))
        elif step.when is not None:
            facts.append(Fact(None, "when", step.when, step.when))
        if isinstance(step, Step):
            facts.append(Fact(None, "precision", _precision(step), step.precision))
    facts += [
        Fact("computed", "computed", _names(plan.computed), list(plan.computed)),
        Fact("carried", "carried", _names(plan.reading.carry), list(plan.reading.carry)),
        Fact("output", "output", spec.output.path, spec.output.path),
    ]
    return [*facts, *(Fact(None, "note", note, note) for note in plan.notes)]


def to_json(plan: Plan) -> dict[str, Any]:
    """The description as a JSON object, with figures that the text only mentions."""
    value: dict[str, Any] = {fact.key: fact.value for fact in describe(plan) if fact.key is not None}
    shown = {"name", "when", "engine", "uri", "precision", "rules", "combine"}
    value["steps"] = [
        n.step.model_dump(mode="json", include=shown, exclude_none=True) for n in graph_of(plan.spec).nodes
    ]
    figures = {
        "bytes": plan.bytes,
        "windows": plan.windows,
        "window_rows": plan.reading.window,
        "pruned_rows": plan.pruned,
    }
    return {**value, **figures, "fingerprint": plan.fingerprint.digest, "notes": list(plan.notes)}


def to_html(plan: Plan) -> str:
    """The description as a table, for notebooks."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(f.label)}</th><td style='text-align:left'>{html.escape(f.text)}</td></tr>"
        for f in describe(plan)
    )
    return f"<table>{rows}</table>"


def count(number: int, noun: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(number: int) -> str:
    """Bytes for people: `512 B`, `1.4 MiB`."""
    value, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{number:,} B" if unit == "B" else f"{value:,.1f} {unit}"


def _paths(plan: Plan) -> list[str]:
    path = plan.spec.input.path
    return [path] if isinstance(path, str) else list(path)


def _step(step: AnyStep) -> str:
    if isinstance(step, Step):
        return f"{step.uri} ({step.engine}{f', {step.task}' if step.task else ''})"
    if isinstance(step, RulesStep):
        return ", ".join(f"{name} = {sql}" for name, sql in step.rules.items())
    return f"{step.combine} of {', '.join(step.inputs)}"


def _precision(step: Step) -> str:
    known = registry.precisions(step, "cpu")
    if len(known) == 1:
        return known[0]
    asked = "auto: the fastest that is measured on the device" if step.precision == "auto" else step.precision
    if step.gate == "off":
        return f"{asked}; gate: off, nothing is compared with fp32"
    if step.precision == known[0]:
        return asked
    return f"{asked}; below 16 bits only where it agrees with fp32 on {step.gate.sample:,} rows"


def _names(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:_SHOWN]) or "nothing"
    return f"{shown} and {len(columns) - _SHOWN:,} more" if len(columns) > _SHOWN else shown
