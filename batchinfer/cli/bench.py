"""`batchinfer bench`: how near a job comes to the limit of its machine, and where the time goes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from batchinfer.cli.exits import assignments, guarded
from batchinfer.cli.follow import display
from batchinfer.cli.logs import kept
from batchinfer.cli.options import JobFile, Json, Logging, LogLevel, Params, Progress, ProgressMode, Sets
from batchinfer.cli.render import table
from batchinfer.cli.streams import show, show_json, stdout_kept_clean, tell
from batchinfer.report.figures import duration, rate

if TYPE_CHECKING:
    from batchinfer.api.bench import Bench
    from batchinfer.measure.settings import StepSettings

STAGES = {
    "read": "read",
    "prepare": "prepare",
    "wait": "wait",
    "infer": "device",
    "write": "write",
    "commit": "commit",
}
"""Stages as the records name them, and as they are shown."""


@guarded
def bench(
    job: JobFile,
    param: Params = None,
    set_: Sets = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Of the input, from its beginning: 10,000 by default.", show_default=False)
    ] = None,
    as_json: Json = False,
    progress: Progress = ProgressMode.AUTO,
    log_level: Logging = LogLevel.WARNING,
) -> int:
    """Compare the job with a bare loop over the same rows.

    Both write to a temporary directory; the job's output is not touched. Shows where the time goes.

    Examples:
        batchinfer bench job.yaml
        batchinfer bench job.yaml --rows 100000 --set model.precision=bf16
    """
    from batchinfer.api import Job
    from batchinfer.api.bench import ROWS
    from batchinfer.cli.signals import Signals
    from batchinfer.cli.watchdog import Watchdog
    from batchinfer.job.secrets import Secrets
    from batchinfer.report.tally import Tally
    from batchinfer.run.events import Event, Finished

    tally = Tally()
    with Signals() as signals, Watchdog() as watchdog, stdout_kept_clean():
        with kept(Secrets.of_environment(os.environ), log_level):
            asked = Job.from_yaml(job, assignments(param), set_ or ())
        with kept(asked.spec.secrets, log_level), display(progress, tally, signals.stop) as shown:

            def listen(event: Event) -> None:
                for listener in (signals.watch, watchdog, tally, shown):
                    listener(event)
                if isinstance(event, Finished) and progress is not ProgressMode.NONE:
                    tell("the runner is done; the bare loop over the same rows follows")

            made = asked.bench(rows or ROWS, listener=listen, stop=signals.stop)
    if as_json:
        show_json({"name": asked.spec.name, **made.to_json()})
    else:
        show(f"{asked.spec.name}: {_headline(made)}\n{table(_lines(made))}")
    return made.result.exit_code


def _headline(made: Bench) -> str:
    return "no row to predict" if made.share is None else f"{100 * made.share:.0f} % of the limit"


def _lines(made: Bench) -> list[tuple[str, str]]:
    from batchinfer.plan.describe import count
    from batchinfer.report.words import counts

    workers, models = count(made.workers, "worker"), made.settings.models
    times = f" (times {made.workers}, the limit)" if made.workers > 1 else " (the limit)"
    return [
        ("rows", counts(made.result.rows)),
        (
            "ran with",
            f"{workers} ({made.result.executor}){', ' + _settings(*models.values()) if len(models) == 1 else ''}",
        ),
        *((f"  {name}", _settings(step)) for name, step in models.items() if len(models) > 1),
        ("runner", f"{rate(made.rate)}, {duration(made.seconds)} once the model was loaded"),
        ("bare loop", f"{rate(made.loop_rate)}, {duration(made.loop.total)}{times}"),
        ("seconds in", _row("runner", "of its time", "bare loop")),
        *_stages(made),
        ("note", "the runner's stages overlap; wait is the device without a batch, or behind preparing or writing"),
        *(("note", note) for note in _doubts(made)),
    ]


def _settings(step: StepSettings) -> str:
    from batchinfer.plan.describe import count
    from batchinfer.report.words import calls

    tokens = "" if step.budget.tokens is None else f" and {step.budget.tokens:,} tokens"
    return f"precision {step.precision}, {calls(step)}, batches of up to {count(step.budget.rows, 'row')}{tokens}"


def _stages(made: Bench) -> list[tuple[str, str]]:
    lines = []
    streams = max(step.streams for step in made.settings.steps.values())
    for name, label in STAGES.items():
        mine, theirs = getattr(made.usage.seconds, name), getattr(made.loop, name, None)
        whole = made.seconds * made.workers * (streams if name == "infer" else 1)
        share = f"{100 * mine / whole:.0f} %" if whole else "–"
        lines.append((f"  {label}", _row(f"{mine:.2f}", share, "–" if theirs is None else f"{theirs:.2f}")))
    return lines


def _row(*cells: str) -> str:
    """Cells below those of other rows, to the right."""
    return "".join(f"{cell:>14}" for cell in cells)


def _doubts(made: Bench) -> list[str]:
    notes = []
    if made.short:
        notes.append("over too soon to say much: take more rows with --rows, for ten seconds or more")
    elif made.share is not None and made.share > 1:
        notes.append("the runner is ahead of the loop where it does side by side what the loop does in turn")
    if made.result.rows.dead:
        notes.append("finding the dead rows is in the runner's time; the loop leaves them out")
    return notes
