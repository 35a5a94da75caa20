"""What a run came to, for people."""

from __future__ import annotations

from batchinfer.cli.render import table
from batchinfer.ledger.spending import Spent
from batchinfer.plan.describe import count
from batchinfer.report.advice import waiting
from batchinfer.report.figures import duration, money, rate
from batchinfer.report.tally import Tally
from batchinfer.report.words import ENDED, counts, device_time, gate
from batchinfer.run.events import RunResult, State
from batchinfer.storage import paths


def summary(name: str, tally: Tally, threshold: int | str, nothing: str, *, page: bool = False) -> str:
    """The end of a run: what became of the rows, how fast, where the predictions are, and what to do next.

    `nothing` says why nothing was run, where that is so; `page` whether a run leaves report.html.
    """
    result = tally.result
    assert result is not None
    rows = [("rows", counts(result.rows))]
    if result.changes:
        rows.append(("input", result.changes))
    if result.rows.truncated:
        rows.append(
            (
                "truncated",
                f"{count(result.rows.truncated, 'row')} longer than the model takes: it saw only the beginning (options.max_length)",
            )
        )
    if speed := _speed(result, tally.work_seconds):
        rows.append(("speed" if result.usage.rows else "ran with", speed))
    rows += cost(result.spent, result.usage.rows)
    for step, settings in ({} if result.settings is None else result.settings.models).items():
        if said := gate(settings):
            rows.append(("quality", said if len(result.usage.steps) < 2 else f"{step}: {said}"))
    for step, served in result.served.items():
        if served.batches:
            told = waiting(served, result.usage.seconds.wait)
            rows.append(("waiting", told if len(result.usage.steps) < 2 else f"{step}: {told}"))
    total = result.usage.total
    if total.reused:
        rows.append(("reused", f"{count(total.reused, 'row')} had the answer to another row of the same content"))
    if total.halved:
        rows.append(
            (
                "memory",
                f"a batch did not fit and was cut in two, {count(total.halved, 'time')}: smaller batching.rows or tokens avoid it",
            )
        )
    if result.rows.succeeded or result.state in (State.SUCCEEDED, State.PARTIAL):
        so_far = "" if result.state in (State.SUCCEEDED, State.PARTIAL) else " (so far)"
        rows.append(
            (
                "predictions",
                f'{result.output}/{paths.DATA}{so_far}\npl.read_parquet("{result.output}/{paths.DATA}/*.parquet")',
            )
        )
    if page and tally.started:
        rows.append(("report", f"{result.output}/{result.job.report}"))
    if result.rows.dead:
        rows.append(("errors", f"batchinfer errors {result.output}"))
    if meaning := _meaning(result, threshold):
        rows.append(("exit code", f"{result.exit_code}: {meaning}"))
    return f"{name}: {_headline(result, tally, nothing)}\n{table(rows)}"


def cost(spent: Spent, rows: int) -> list[tuple[str, str]]:
    """What the run took of devices, by the rows that it predicted, and what it cost where a price is given."""
    lines = []
    if spent.device_seconds:
        lines.append(("devices", device_time(spent.devices, spent.device_seconds, rows)))
    if spent.cost is not None and spent.job_cost is not None:
        former = (
            f", {money(spent.job_cost)} for all runs of the job"
            if spent.job_device_seconds > spent.device_seconds
            else ""
        )
        lines.append(("cost", f"{money(spent.cost)}{former}, at {spent.price_per_hour:g} a device-hour"))
    return lines


def _headline(result: RunResult, tally: Tally, nothing: str) -> str:
    if not tally.started:
        return (
            f"{nothing}; nothing to do"
            if result.exit_code == 0
            else f"{nothing}; nothing was run, and the verdict stands"
        )
    return f"{ENDED[result.state]} after {duration(tally.seconds)}"


def _speed(result: RunResult, work_seconds: float) -> str:
    words = []
    if result.usage.rows and work_seconds > 0:
        words.append(rate(result.usage.rows / work_seconds))
    if result.workers:
        words.append(f"{count(result.workers, 'worker')} ({result.executor})")
    if result.settings is not None and (
        ran := dict.fromkeys(step.precision for step in result.settings.models.values())
    ):
        words.append(f"precision {', '.join(ran)}")
    if (total := result.usage.total).padded_tokens:
        words.append(f"{(1 - total.tokens / total.padded_tokens) * 100:.1f} % padding")
    return ", ".join(words)


def _meaning(result: RunResult, threshold: int | str) -> str:
    dead = f"{count(result.rows.dead, 'dead row')}"
    match result.state:
        case State.SUCCEEDED:
            return f"{dead}, which errors.threshold: {threshold} allows" if result.rows.dead else ""
        case State.PARTIAL:
            return (
                f"{dead}, more than errors.threshold: {threshold} allows; all other rows are predicted. Allow them with "
                f"--set errors.threshold={result.rows.dead}, or fix the cause and run: batchinfer retry {result.output}"
            )
        case State.INTERRUPTED | State.CANCELLED:
            return "what is finished is kept; run the same command to go on"
        case _ if result.exit_code == 3:
            return "see the error above; what is finished is kept"
        case _:
            return "see the error above; what is finished is kept, and running the same command goes on from there"
