"""A run in words: the events worth a line, the precision and why."""

from __future__ import annotations

from collections.abc import Mapping

from batchinfer.ledger.parts import Counts
from batchinfer.measure.cascade import Point
from batchinfer.measure.settings import Settings, StepSettings
from batchinfer.measure.verdict import Verdict
from batchinfer.plan.describe import count
from batchinfer.report.figures import duration, rate
from batchinfer.run.events import Event, GivenUp, Retried, Settled, Started, State
from batchinfer.run.stop import StopRequest

ENDED = {
    State.SUCCEEDED: "succeeded",
    State.PARTIAL: "finished, with too many dead rows,",
    State.FAILED: "failed",
    State.INTERRUPTED: "interrupted",
    State.CANCELLED: "cancelled",
    State.RUNNING: "running",
}
"""A state as the beginning of `… after 12 s`."""
CURVE = 8
"""Points of a cascade's trade-off that are shown."""


def note(event: Event) -> str | None:
    """An event in words, where it is worth a line."""
    if isinstance(event, Started):
        plan = event.plan
        if event.decided == len(plan.shards):
            return f"resumed: all {event.decided:,} shards were done before"
        if event.decided:
            return f"resumed: {event.decided:,} of {len(plan.shards):,} shards were done before ({event.decided_rows:,} of {plan.rows:,} rows)"
        return f"{plan.rows:,} rows in {count(len(plan.shards), 'shard')}; loading the model"
    if isinstance(event, Settled):
        running = f"running with {count(event.workers, 'worker')}, {precisions(event.settings)}"
        return "\n".join(
            [running, *(cascade(*named) for named in event.settings.models.items() if named[1].threshold is not None)]
        )
    if isinstance(event, Retried):
        where = ", its model in a child process" if event.quarantined else ""
        return f"{event.failed.error}; it was replaced, and shard {event.failed.shard} is tried again{where} (death {event.deaths})"
    if isinstance(event, GivenUp):
        return f"shard {event.failed.shard} given up: {event.failed.error}"
    return None


def stopping(stop: StopRequest) -> str:
    """What happens after a request to stop."""
    again = "; once more to exit at once" if stop.cancelled else ""
    return f"{stop.reason}: finishing the batches in hand and saving them{again}"


def counts(rows: Counts) -> str:
    """Rows by what became of them, as the sum that it is."""
    parts = {
        "succeeded": rows.succeeded,
        "dead": rows.dead,
        "filtered": rows.filtered,
        "not attempted": rows.not_attempted,
    }
    return f"{rows.planned:,} = " + " + ".join(f"{number:,} {word}" for word, number in parts.items())


def device_time(devices: float, device_seconds: float, rows: int) -> str:
    """What a run held of devices for how long, and by the rows that it predicted."""
    held = f"{devices:g} device{'' if devices == 1 else 's'} for {duration(device_seconds / devices)}"
    if not rows:
        return held
    each = device_seconds / rows * 1e6
    return (
        f"{held}, {each:,.0f} device-seconds per million rows"
        if each >= 10
        else f"{held}, {each:.2g} device-seconds per million rows"
    )


def precisions(settings: Settings) -> str:
    """The precision of each model, and why."""
    alike: dict[str, list[str]] = {}
    for name, step in settings.models.items():
        alike.setdefault(precision(step), []).append(name)
    if len(alike) <= 1:
        return "".join(alike) or "no model"
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in alike.items())


def cascade(name: str, settings: StepSettings) -> str:
    """The threshold of a cascade, and what others would have done."""
    found = settings.measured.get("cascade")
    if found is None:
        return f"{name} takes every row: there is nothing to compare"
    points = [Point(**p) for p in found["curve"]]
    some = points[:: max(1, len(points) // CURVE)]
    return "\n".join(
        [
            f"{name} takes rows of a confidence below {Point(**found['chosen'])}, by {found['rows']:,} rows; others would do:",
            *(f"  {point}" for point in some),
        ]
    )


def precision(settings: StepSettings) -> str:
    """The precision that runs, and why, with what the gate says of it."""
    said = gate(settings)
    beside = f"; {calls(settings)}" if settings.streams > 1 else ""
    return f"precision {choice(settings)}{beside}{f'; {said}' if said else ''}"


def choice(settings: StepSettings) -> str:
    """The precision that runs, and why: what was measured, what can't run, what wasn't tried."""
    measured = settings.measured
    text = settings.precision
    if rates := measured.get("rows_per_second"):
        when = "measured before" if measured.get("known_before") else "measured"
        text += f" ({when}: {', '.join(f'{name} {rate(pace)}' for name, pace in rates.items())})"
    why = measured.get("choice") or measured.get("precision")
    text += f": {str(why).removeprefix(f'{settings.precision}: ')}" if why else ""
    if layers := (applied := measured.get("applied") or {}).get("layers"):
        text += f"; {applied['quantized_layers']:,} of {layers:,} layers quantized{', compiled' if applied['compiled'] else ''}"
    if provider := measured.get("provider"):
        text += f"; on {provider}"
    for name, error in (measured.get("failed") or {}).items():
        text += f"; {name} can't run: {error}"
    for reason, names in _by_reason(measured.get("skipped") or {}).items():
        text += f"; {', '.join(names)} {'is' if len(names) == 1 else 'are'} skipped: {reason}"
    for name, verdict in (measured.get("gates") or {}).items():
        if name != settings.precision:
            text += f"; {name} isn't taken: the gate {Verdict.from_json(verdict)}"
    return text


def calls(settings: StepSettings) -> str:
    """How a worker spends its CPU threads on calls of the model."""
    threads = count(settings.threads, "CPU thread")
    return threads if settings.streams == 1 else f"{settings.streams} calls at a time, of {threads} each"


def _by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    return names


def gate(settings: StepSettings) -> str:
    """What the quality gate says of the precision that runs; empty where nothing was compared or to be."""
    verdict = settings.measured.get("gate")
    if not verdict:
        return ""
    if "not_compared" in verdict:
        return f"not compared with fp32: {verdict['not_compared']}"
    return f"gate {Verdict.from_json(verdict)}"
