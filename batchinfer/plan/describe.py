"""A plan in words: one list of facts behind the terminal's table, its JSON and the notebook's view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.engines import registry
from batchinfer.job.steps import AnyStep, Cascade, RulesStep, Step
from batchinfer.pipeline.graph import graph_of
from batchinfer.plan.table import Table

if TYPE_CHECKING:  # a plan shows itself by this module
    from batchinfer.job.spec import JobSpec
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
        Fact("input", "input", ", ".join(_paths(spec)), _paths(spec)),
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
        where = "(of the environment)" if _is_secret(spec) else plan.reading.where
        facts.append(Fact("where", "where", f"{where} ({pruning})", where))
    for node in graph_of(spec).nodes:
        facts += _told(spec, node.step)
        if isinstance(node.step, Step):
            facts.append(Fact(None, "precision", _precision(node.step), node.step.precision))
    facts += [
        Fact("computed", "computed", _names(plan.computed), list(plan.computed)),
        Fact("carried", "carried", _names(plan.reading.carry), list(plan.reading.carry)),
        Fact("output", "output", spec.output.path, spec.output.path),
    ]
    return [*facts, *(Fact(None, "note", note, note) for note in plan.notes)]


def asked(spec: JobSpec) -> Table:
    """What a job asks for, before it is planned. Repeats no secret."""
    rows = [("input", ", ".join(_paths(spec)))]
    if spec.input.where is not None:
        rows.append(("where", "(of the environment)" if _is_secret(spec) else spec.input.where))
    if spec.input.limit is not None:
        rows.append(("limit", f"{spec.input.limit:,} rows"))
    rows += [(fact.label, fact.text) for step in spec.steps for fact in _told(spec, step)]
    rows.append(("output", spec.output.path))
    return Table(spec.name, "", tuple((label, spec.secrets.hide(text)) for label, text in rows))


def _is_secret(spec: JobSpec) -> bool:
    """Whether a piece of `where` comes from the environment."""
    return spec.written is not None and ("input", "where") in spec.written.secret


def _told(spec: JobSpec, step: AnyStep) -> list[Fact]:
    """What a step is, and which rows take it."""
    facts = [Fact(None, "model" if len(spec.steps) == 1 else step.name, _step(step), step.name)]
    if isinstance(step, Step) and isinstance(step.cascade, Cascade):
        text = f"{step.cascade.confidence} is below a threshold at which the answers agree on {step.cascade.agreement:.2%} of the rows"
        return [*facts, Fact(None, "when", text, step.when)]
    return facts if step.when is None else [*facts, Fact(None, "when", step.when, step.when)]


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


def to_table(plan: Plan) -> Table:
    """The description as a table, for notebooks."""
    return Table(plan.spec.name, "planned", tuple((f.label, f.text) for f in describe(plan) if f.key != "name"))


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


def _paths(spec: JobSpec) -> list[str]:
    path = spec.input.path
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
