"""`batchinfer doctor`: what this machine offers, and what a job lacks on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchinfer.cli import complete
from batchinfer.cli.exits import assignments, guarded
from batchinfer.cli.logs import kept
from batchinfer.cli.options import Json, Params, Sets
from batchinfer.cli.render import table
from batchinfer.cli.streams import show, show_json, stdout_kept_clean

if TYPE_CHECKING:
    from batchinfer.doctor.finding import Examination, Finding

MARKS = {"fine": "✓", "absent": "–", "warning": "!", "wrong": "✗", "unknown": "?"}


@guarded
def doctor(
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB",
            help="A job file: look at what this job needs, too.",
            show_default=False,
            autocompletion=complete.job_files,
        ),
    ] = None,
    param: Params = None,
    set_: Sets = None,
    as_json: Json = False,
) -> int:
    """Say what this machine offers, and what a job lacks on it.

    Devices, instructions, engines and their packages, credentials (where some were found, never which), Ray and disks, and for what is
    missing the command that installs it. Of a job: its packages and models, whether its input can be listed, and its output written.
    No model is loaded or downloaded, no cluster begun, nothing left behind.

    Examples:
        batchinfer doctor
        batchinfer doctor job.yaml
        batchinfer doctor job.yaml --param day=2026-11-22 --json

    Exit codes:
        0: nothing is in the way
        2: the job can't run here, or no job can; what is wrong is marked
    """
    from batchinfer.doctor.examine import JobFile, examine
    from batchinfer.job.secrets import Secrets

    asked = None if job is None else JobFile(job, assignments(param), set_ or ())
    with stdout_kept_clean(), kept(Secrets.of_environment(os.environ), "error"):
        # Unlike Path.home, this gives an answer for a user of a container who has no home.
        found = examine(os.environ, Path(os.path.expanduser("~")), asked)  # noqa: PTH111
    if as_json:
        show_json(found.to_json())
    else:
        show(_text(found, job))
    return found.exit_code


def _text(found: Examination, job: str | None) -> str:
    parts = [f"{title}\n{table(map(_row, lines))}" for title, lines in found.sections.items() if lines]
    return "\n\n".join([*parts, _verdict(found, job)])


def _row(finding: Finding) -> tuple[str, str]:
    advice = f"\n→ {finding.advice}" if finding.advice else ""
    return f"{MARKS[finding.state]} {finding.topic}", f"{finding.text}{advice}"


def _verdict(found: Examination, job: str | None) -> str:
    from batchinfer.plan.describe import count

    if found.wrong:
        return f"{count(found.wrong, 'thing')} marked ✗ must be mended before {job or 'a job'} can run here"
    if job is None:
        return "nothing is in the way; batchinfer doctor JOB looks at what a job needs"
    return f"nothing is in the way of {job}; batchinfer plan {job} looks at its rows and columns"
