"""`batchinfer plan` and `batchinfer validate`: what would be done, and whether it is asked well."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from batchinfer.cli.exits import assignments, guarded
from batchinfer.cli.logs import kept
from batchinfer.cli.options import RUN, JobFile, Json, Params, Sets
from batchinfer.cli.render import table
from batchinfer.cli.streams import show, show_json, stdout_kept_clean
from batchinfer.errors import RefusedError

if TYPE_CHECKING:
    from batchinfer.api.measure import Measurement
    from batchinfer.executors.protocol import Pool
    from batchinfer.plan.plan import Plan
    from batchinfer.run.resources import Allotment


@guarded
def validate(job: JobFile, param: Params = None, set_: Sets = None, as_json: Json = False) -> int:
    """Check a job file, without looking at the input or the model.

    Tells every mistake at once, each with its line and what to write instead.

    Examples:
        batchinfer validate job.yaml
        batchinfer validate job.yaml --param day=2026-11-22 --json

    Exit codes:
        0: it is a valid job
        2: it is not
    """
    from batchinfer.job.load import load
    from batchinfer.job.secrets import Secrets

    with kept(Secrets.of_environment(os.environ)):
        spec = load(job, assignments(param), set_ or ())
    if len(spec.steps) > 1 or spec.steps[0].when is not None or not spec.models:
        from batchinfer.pipeline.graph import check  # needs polars, which takes its time

        check(spec)
    if as_json:
        show_json({"ok": True, "name": spec.name})
    else:
        show(f"ok: {job} is a valid job ({spec.name})")
    return 0


@guarded
def plan(
    job: JobFile,
    param: Params = None,
    set_: Sets = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Really run a few rows, aside, for pace, memory, time and cost.", rich_help_panel=RUN
        ),
    ] = False,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --measure, for each worker: 512 by default.", show_default=False, rich_help_panel=RUN
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Show what a run would do.

    Reads footers and hashes the model; runs nothing, unless --measure asks for it. What is measured goes into a temporary directory; the
    job's output is not touched.

    Examples:
        batchinfer plan job.yaml
        batchinfer plan job.yaml --set input.limit=1000 --json
        batchinfer plan job.yaml --measure --rows 256
    """
    from batchinfer.api import Job
    from batchinfer.job.secrets import Secrets
    from batchinfer.plan.describe import describe, to_json
    from batchinfer.run.resources import allot

    if rows is not None and not measure:
        raise RefusedError("--rows says how many rows --measure takes: give --measure too")
    with kept(Secrets.of_environment(os.environ)):
        asked = Job.from_yaml(job, assignments(param), set_ or ())
    with kept(asked.spec.secrets):
        planned = asked.plan()
        found = _measured(planned, rows) if measure else None
    allotment = allot(planned.spec)
    if as_json:
        resources = {
            "executor": allotment.executor,
            "workers": allotment.workers,
            "threads": allotment.threads,
            "gpus": allotment.gpus,
            "pools": {step: asdict(pool) for step, pool in allotment.pools.items()},
        }
        measured = {} if found is None else {"measured": found.to_json()}
        show_json({**to_json(planned), "resources": resources, **measured})
    else:
        lines = [(fact.label, fact.text) for fact in describe(planned)]
        notes = len(lines) - len(planned.notes)
        pools = [(f"pool of {step}", _pool(pool)) for step, pool in allotment.pools.items()]
        measured_lines = []
        if found is not None:
            from batchinfer.cli.measured import lines as lines_of

            measured_lines = lines_of(found)
        show(table([*lines[:notes], ("workers", _workers(allotment)), *pools, *lines[notes:], *measured_lines]))
    return 0


def _measured(planned: Plan, rows: int | None) -> Measurement:
    """Run the canaries of a plan, and leave nothing behind."""
    from batchinfer.api.aside import temporary
    from batchinfer.api.measure import ROWS, measure
    from batchinfer.cli.measured import Telling, remove
    from batchinfer.cli.signals import Signals
    from batchinfer.cli.watchdog import Watchdog

    with Signals() as signals, Watchdog() as watchdog, stdout_kept_clean(), temporary("batchinfer-measure-") as folder:
        signals.at_exit = remove(folder)
        return measure(planned, folder, rows or ROWS, Telling(signals, watchdog), signals.stop)


def _workers(allotment: Allotment) -> str:
    from batchinfer.plan.describe import count

    if allotment.workers is None:
        return f"{allotment.executor}: one on each GPU of the cluster, or one on each node without"
    each = _each(allotment.threads, allotment.gpus, allotment.workers != 1)
    return f"{count(allotment.workers, 'worker')} ({allotment.executor}), {each}"


def _pool(pool: Pool) -> str:
    from batchinfer.plan.describe import count

    number = count(pool.most, "model actor")
    return f"{number if pool.least == pool.most else f'{pool.least} to {number}'}, {_each(pool.threads, pool.gpus, pool.most != 1)}"


def _each(threads: int, gpus: float | None, several: bool) -> str:
    from batchinfer.plan.describe import count

    more = f" and {gpus:g} GPU" if gpus else ""
    return f"with {count(threads, 'CPU thread')}{more}{' each' if several else ''}"
