"""The verbs, wired to the program. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer

from batchinfer.cli import bench, clean, compare, detached, doctor, drift, init, plan, report, run, status, verify
from batchinfer.cli.bash_words import completed
from batchinfer.cli.complete import ASKED
from batchinfer.cli.exits import leave
from batchinfer.cli.streams import show
from batchinfer.cli.verb import Verb, Verbs

app = typer.Typer(
    name="batchinfer",
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 unexpected, 2 refused (job file, input, model, output), 3 too many dead rows, findings or drift, "
    "75 interrupted or locked (the same command resumes), 99 locked (with --if-locked skip), 130 Ctrl-C.",
)

VERBS: dict[str, tuple[Callable[..., None], ...]] = {
    "Prepare": (init.init, init.schema, doctor.doctor, plan.validate, plan.plan, bench.bench),
    "Run": (run.run, run.retry, detached.submit, detached.wait, detached.cancel),
    "Look": (status.status, status.errors, report.report, verify.verify, compare.compare, drift.drift, clean.clean),
}
"""By what they are for, as the help has them."""

for panel, verbs in VERBS.items():
    for verb in verbs:
        app.command(cls=Verb, rich_help_panel=panel)(verb)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            show(f"batchinfer {version('batchinfer')}")
        except PackageNotFoundError:
            show("batchinfer, from a source tree that isn't installed")
        raise typer.Exit


@app.callback()
def batchinfer(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Batch inference over Parquet: one prediction for every row, exactly once, and the same command resumes."""


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    try:
        if os.environ.get(ASKED) == "complete_bash":
            completed(os.environ, lambda: app(prog_name="batchinfer"))
        app(prog_name="batchinfer")
    except SystemExit as end:
        leave(end.code)
