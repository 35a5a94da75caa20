"""The page of a run, drawn from its record alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from importlib import resources
from typing import Any

from batchinfer.measure.settings import Settings
from batchinfer.plan.describe import count, size
from batchinfer.report import words
from batchinfer.report.figures import duration, money, rate
from batchinfer.report.html import plots
from batchinfer.report.html.distributions import distribution
from batchinfer.report.profile import Profile
from batchinfer.report.record import RunRecord

MOST_COLUMNS = 24
_MOODS = {"SUCCEEDED": "good", "RUNNING": "", "PARTIAL": "warn", "INTERRUPTED": "warn", "CANCELLED": "warn"}
_HEADLINES = {
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "PARTIAL": "finished, with more dead rows than the threshold allows",
    "FAILED": "failed",
    "INTERRUPTED": "interrupted: the same command goes on",
    "CANCELLED": "cancelled: the same command goes on",
}


def page(record: RunRecord) -> str:
    """A file of HTML that needs no other and no network."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["moment"] = _moment
    place = resources.files(__package__)
    template = environment.from_string(place.joinpath("page.html.j2").read_text("utf-8"))
    return template.render(css=place.joinpath("page.css").read_text("utf-8"), **_shown(record))


def _shown(record: RunRecord) -> dict[str, Any]:
    now = record.predictions.now
    return {
        "record": record,
        "mood": _MOODS.get(record.state, "bad"),
        "headline": _HEADLINES[record.state],
        "tiles": [{"value": value, "label": label} for value, label in _tiles(record)],
        "accounting": _accounting(record),
        "facts": list(_facts(record)),
        "models": list(_models(record)),
        "padding": list(_padding(record)),
        "plots": {
            "throughput": plots.throughput(record),
            "stages": plots.stages(record.usage.seconds),
            "batches": plots.batch_sizes(
                {name: step for name, step in record.usage.steps.items() if name in record.models}
            ),
            "memory": plots.memory(record.crew),
            "timeline": plots.timeline(record),
        },
        "hidden_workers": max(0, len(record.crew) - plots.MOST_LANES),
        "columns": list(_columns(record)),
        "looked_at": now["looked_at"] if now else 0,
    }


def _moment(text: str) -> str:
    """`2026-11-28 07:01 UTC`."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC")


def _tiles(record: RunRecord) -> Iterator[tuple[str, str]]:
    work = record.seconds - record.settled
    if record.usage.rows and work > 0:
        yield rate(record.usage.rows / work), "without the start"
    if record.seconds:
        yield duration(record.seconds), f"of which {duration(record.settled)} to load and measure"
    yield f"{record.rows.succeeded:,}", "rows predicted"
    yield f"{record.rows.dead:,}", "dead rows"
    if record.workers:
        yield count(record.workers, "worker"), record.executor
    if record.job_cost is not None:
        yield money(record.job_cost), f"for {money(record.job_device_seconds / 3600)} device-hours of all runs"


def _accounting(record: RunRecord) -> list[dict[str, Any]]:
    rows = record.rows
    named = (
        ("succeeded", rows.succeeded, "three"),
        ("dead", rows.dead, "bad"),
        ("filtered", rows.filtered, "six"),
        ("not attempted", rows.not_attempted, "five"),
    )
    return [{"name": name, "rows": number, "colour": colour} for name, number, colour in named]


def _facts(record: RunRecord) -> Iterator[tuple[str, str]]:
    plan = record.plan
    if not plan:
        return
    yield "input", ", ".join(plan.get("input", []))
    if "files" in plan:
        yield "files", f"{count(plan['files'], 'file')}, {size(plan.get('bytes', 0))}"
    if plan.get("where"):
        yield "where", str(plan["where"])
    if "shards" in plan:
        yield "shards", f"{count(plan['shards'], 'shard')}, {count(plan['windows'], 'window')}"
    for label in ("computed", "carried"):
        if plan.get(label):
            yield label, ", ".join(plan[label])
    if record.devices and record.device_seconds:
        yield "devices", words.device_time(record.devices, record.device_seconds, record.usage.rows)
    if record.changes:
        yield "input changes", record.changes
    yield "fingerprint", plan.get("fingerprint", "")
    for text in plan.get("notes", []):
        yield "note", text


def _models(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Each step: what it is, which precision ran and why, and what the gate found."""
    settings = Settings.from_json(record.settings).steps if record.settings else {}
    for step in record.plan.get("steps", []):
        name, facts = step["name"], []
        kind = (
            step.get("uri") or step.get("combine") or ", ".join(f"{k} = {v}" for k, v in step.get("rules", {}).items())
        )
        facts.append(("model", f"{kind} ({step['engine']})") if "uri" in step else ("computes", kind))
        if step.get("when"):
            facts.append(("when", step["when"]))
        chosen = settings.get(name)
        if chosen is not None and chosen.precision:
            facts.append(("precision", words.choice(chosen)))
            facts += [("gate", said.removeprefix("gate "))] if (said := words.gate(chosen)) else []
            budget = [f"{chosen.budget.rows:,} rows"] if chosen.budget.rows else []
            budget += [f"{chosen.budget.tokens:,} tokens"] if chosen.budget.tokens else []
            facts += [("batches", f"at most {' and '.join(budget)}")] if budget else []
            facts.append(("threads", words.calls(chosen)))
            if chosen.threshold is not None:
                facts.append(("cascade", words.cascade(name, chosen)))
        if name in record.models:
            facts.append(("digest", record.models[name]))
        yield {"name": name, "facts": facts}


def _padding(record: RunRecord) -> Iterator[str]:
    for name, step in record.usage.steps.items():
        which = f"{name}: " if len(record.usage.steps) > 1 else ""
        if step.padded_tokens:
            share = 100 * (1 - step.tokens / step.padded_tokens)
            yield f"{which}{share:.1f} % padding, {count(step.tokens, 'token')}"
        if step.reused:
            yield f"{which}{count(step.reused, 'row')} had the answer to another row of the same content"


def _columns(record: RunRecord) -> Iterator[dict[str, Any]]:
    if record.predictions.now is None:
        return
    now = Profile.from_json(record.predictions.now)
    before = None if record.predictions.before is None else Profile.from_json(record.predictions.before)
    shown = 0
    for column in now.columns:
        other = None if before is None else before.column(column.name)
        plot = distribution(column, other)
        if plot and shown < MOST_COLUMNS:
            shown += 1
            about = column.type + (f", {count(column.nulls, 'null')}" if column.nulls else "")
            yield {"name": column.name, "about": about, "plot": plot}
