"""`batchinfer status` and `batchinfer errors`: what an output holds."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchinfer.cli.exits import assignments, guarded
from batchinfer.cli.logs import kept
from batchinfer.cli.options import JOB_FILES, Json, Output, Params
from batchinfer.cli.render import table
from batchinfer.cli.streams import show, show_json, tell
from batchinfer.report.figures import duration, money, rate

_WATCH_SECONDS = 1.0

if TYPE_CHECKING:
    from batchinfer.api import Run
    from batchinfer.api.history import Summary
    from batchinfer.ledger.epochs import Standing
    from batchinfer.report.error_groups import ErrorGroup
    from batchinfer.storage.store import StorageOptions


@contextlib.contextmanager
def located(output: str, param: list[str] | None) -> Iterator[tuple[str, StorageOptions]]:
    """An output path, or the one that a job file names, with the options for its store; the block repeats no secret."""
    from batchinfer.job.secrets import Secrets

    if output.endswith(JOB_FILES):
        from batchinfer.job.load import load

        spec = load(output, assignments(param))
        path, storage, secrets = spec.output.path, spec.storage, spec.secrets
    else:
        path, storage, secrets = output, {}, Secrets.of_environment(os.environ)
    with kept(secrets):
        yield path, storage


@contextlib.contextmanager
def opened(output: str, param: list[str] | None) -> Iterator[Run]:
    """The run at an output path, or at the one that a job file names. Raises OutputError where there is none."""
    from batchinfer.api import open_run

    with located(output, param) as (path, storage):
        yield open_run(path, storage)


@guarded
def status(
    output: Output,
    param: Params = None,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until the run has ended.")] = False,
) -> int:
    """Show how far a job is, and whether its runner is alive.

    Examples:
        batchinfer status job.yaml
        batchinfer status out/predictions --watch
    """
    with opened(output, param) as run:
        if watch:
            _watch(run)
        if as_json:
            show_json(_to_json(run))
        else:
            show(_text(run))
    return 0


def _watch(run: Run) -> None:
    """Show it on stderr every second: in place on a terminal, else where it has changed."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, before = Console(stderr=True), ""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while (runner := run.runner()) is not None and runner.state not in ("closed", "dead"):
            if console.is_terminal:
                live.update(Text(_text(run)), refresh=True)
            elif (line := _line(run)) != before:
                tell(line)
                before = line
            time.sleep(_WATCH_SECONDS)


def _line(run: Run) -> str:
    rows, (done, planned) = run.counts, run.shards
    decided = rows.planned - rows.not_attempted
    return f"batchinfer: {run.name}: {decided:,}/{rows.planned:,} rows, {done:,}/{planned:,} shards, {rows.dead:,} dead"


def _to_json(run: Run) -> dict[str, Any]:
    from dataclasses import asdict

    done, planned = run.shards
    return {
        "name": run.name,
        "state": str(run.state),
        "exit_code": run.exit_code,
        "rows": asdict(run.counts),
        "shards": {"planned": planned, "done": done},
        "generations": [asdict(g) for g in run.generations],
        "runner": _runner_json(run.runner()),
        "rows_per_second": _pace(run.record),
        "job_cost": run.record.get("job_cost"),
        "output": run.path,
    }


def _text(run: Run) -> str:
    from batchinfer.report.words import counts

    rows, (done, planned), runner, record = run.counts, run.shards, run.runner(), run.record
    pace, generations = _pace(record), run.generations
    lines = [
        ("rows", counts(rows)),
        ("shards", f"{done:,} of {planned:,} done"),
        *((g.kind, _generation_text(g)) for g in generations if g.kind != "run"),
        ("runner", _runner_text(runner)),
        *([("last run", f"{rate(pace)}, loading included")] if pace else []),
        *_spent(runner, record),
        *(("error", str(error)) for error in record.get("errors", [])),
        ("output", run.path),
    ]
    code = "" if run.exit_code is None else f" (exit code {run.exit_code})"
    return f"{run.name}: {run.state}{code}\n{table(lines)}"


def _spent(runner: Standing | None, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Device time of the job up to its runner's last sign of life, and its cost as the last run that ended told it."""
    if runner is None or not runner.device_seconds:
        return []
    cost = record.get("job_cost")
    told = f", {money(cost)} in all" if isinstance(cost, float) else ""
    return [("devices", f"{duration(runner.device_seconds)} of device time{told}")]


def _generation_text(generation: Summary) -> str:
    if generation.kind == "extension":
        return f"{generation.changes}, {'ended' if generation.ended else 'not ended: run the same command to go on'}"
    only = f" ({', '.join(generation.selection)})" if generation.selection else ""
    end = "ended" if generation.ended else "not ended: run the same retry again to go on"
    return f"of {generation.rows:,} dead rows{only}, {end}"


def _pace(record: dict[str, Any]) -> float | None:
    """Rows a second of the last run that ended."""
    rows, seconds = record.get("usage", {}).get("rows", 0), record.get("seconds", 0)
    return round(rows / seconds, 1) if rows and seconds else None


def _runner_json(runner: Standing | None) -> dict[str, Any] | None:
    from datetime import UTC, datetime

    return (
        None
        if runner is None
        else {"state": runner.state, "owner": runner.owner, "heartbeat_age": runner.age(datetime.now(UTC))}
    )


def _runner_text(runner: Standing | None) -> str:
    from datetime import UTC, datetime

    from batchinfer.ledger.epochs import STALE_SECONDS

    if runner is None:
        return "none so far"
    age = runner.age(datetime.now(UTC))
    seen = "" if age is None else f", last sign of life {duration(age)} ago"
    match runner.state:
        case "closed":
            return f"ended in order ({runner.owner})"
        case "dead":
            return f"dead: {runner.owner} is gone; run the same command to go on"
        case "alive":
            return f"alive: {runner.owner}{seen}"
        case _ if age is not None and age > STALE_SECONDS:
            return f"stale: {runner.owner}{seen}; run the same command to go on"
        case _:
            return f"alive, by its heartbeat: {runner.owner}{seen}"


@guarded
def errors(
    output: Output,
    param: Params = None,
    as_json: Json = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show the N most frequent errors.")] = 10,
    resolved: Annotated[bool, typer.Option("--resolved", help="Also those that a retry resolved.")] = False,
) -> int:
    """Show the rows that could not be predicted, by what went wrong.

    Examples:
        batchinfer errors job.yaml
        batchinfer errors out/predictions --limit 3 --json
    """
    from batchinfer.plan.describe import count
    from batchinfer.report.error_groups import group

    with opened(output, param) as run:
        name, groups = run.name, group(run.errors(resolved=resolved).iter_rows(named=True))
    rows, settled = sum(g.rows for g in groups), sum(g.resolved for g in groups)
    if as_json:
        show_json(
            {
                "dead": rows - settled,
                "resolved": settled,
                "kinds": len(groups),
                "groups": [g.to_json() for g in groups[:limit]],
            }
        )
    elif not groups:
        show(f"{name}: no dead rows")
    else:
        dead = count(rows - settled, "dead row") + (f", {settled:,} resolved by a retry" if settled else "")
        kinds = "" if len(groups) == 1 else f", {len(groups):,} different errors"
        rest = len(groups) - limit
        more = f"\n\nand {rest:,} more; --limit {len(groups)} shows all" if rest > 0 else ""
        show("\n\n".join([f"{name}: {dead}{kinds}", *map(_group, groups[:limit])]) + more)
    return 0


def _group(group: ErrorGroup) -> str:
    first, *rest = group.message.split("\n")
    message = first + (" …" if rest else "")
    places = [
        f"{e.source_file} row {e.source_row:,}{f', key {e.key}' if e.key is not None else ''}" for e in group.examples
    ]
    more = [f"and {group.rows - len(places):,} more"] if group.rows > len(places) else []
    kind = "" if group.error_class == "exception" else f" ({group.error_class.replace('_', ' ')})"
    settled = f" [{group.resolved:,} resolved by a retry]" if group.resolved else ""
    return f"{group.rows:,} × {group.error_type}{kind}: {message}{settled}\n" + "\n".join(
        f"    {line}" for line in [*places, *more]
    )
