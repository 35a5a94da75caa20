"""What a run came to, for people in a notebook: the same from its last event and from its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchinfer.ledger.parts import Counts
from batchinfer.plan.describe import count
from batchinfer.plan.table import Table
from batchinfer.report.figures import duration, rate
from batchinfer.report.words import ENDED, counts
from batchinfer.run.events import State
from batchinfer.storage import paths

_AT_THE_END = (State.SUCCEEDED, State.PARTIAL)


def outcome(name: str, record: Mapping[str, Any], rows: Counts, output: str) -> Table:
    """The table of a run.

    Args:
        name: of the job.
        record: the content of `run_results.json`, as far as it is there.
        rows: of the job as it stands.
        output: its path.

    """
    state = State(record.get("state", State.RUNNING))
    took = f" after {duration(record['seconds'])}" if record.get("seconds") and state is not State.RUNNING else ""
    code = f" (exit code {record['exit_code']})" if record.get("exit_code") else ""
    told = [("rows", counts(rows))]
    if record.get("changes"):
        told.append(("input", record["changes"]))
    if speed := _speed(record):
        told.append(("speed", speed))
    if rows.succeeded:
        told.append(("predictions", f"{output}/{paths.DATA}"))
    why = "reason" if state in (State.INTERRUPTED, State.CANCELLED) else "error"
    told += [(why, text) for text in record.get("errors", ())]
    if rows.dead:
        again = "; mend the cause, and run.retry() attempts them again" if state in _AT_THE_END else ""
        told.append(("dead rows", f"run.errors() lists them{again}"))
    if what := rest(state):
        told.append(("next", what))
    return Table(name, f"{ENDED[state] if took else ENDED[state].rstrip(',')}{took}{code}", tuple(told))


def _speed(record: Mapping[str, Any]) -> str:
    """Rows a second, workers and precisions of the last run; empty where it predicted nothing."""
    usage, settings = record.get("usage") or {}, record.get("settings") or {}
    if not usage.get("rows") or not record.get("seconds"):
        return ""
    words = [f"{rate(usage['rows'] / record['seconds'])}, loading included"]
    if record.get("workers"):
        words.append(f"{count(record['workers'], 'worker')} ({record['executor']})")
    precisions = dict.fromkeys(step["precision"] for step in settings.get("steps", ()) if step.get("precision"))
    return ", ".join([*words, *([f"precision {', '.join(precisions)}"] if precisions else [])])


def rest(state: State) -> str:
    """What becomes of the rest of a job that ended so; empty where there is none."""
    match state:
        case State.INTERRUPTED | State.CANCELLED:
            return "what is finished is kept; the same run goes on from there"
        case State.FAILED:
            return "what is finished is kept; mend the cause, and the same run goes on from there"
        case _:
            return ""
