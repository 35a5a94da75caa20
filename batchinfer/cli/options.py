"""Arguments and options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from batchinfer.cli import complete
from batchinfer.cli.complete import JOB_FILES

__all__ = ["JOB_FILES"]

JOB, RUN, TOLD = "Job options", "Run options", "Reporting options"
"""Panels of help."""

JobFile = Annotated[
    str, typer.Argument(metavar="JOB", help="The job file.", show_default=False, autocompletion=complete.job_files)
]
Output = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT",
        help="The job's output path, or its job file.",
        show_default=False,
        autocompletion=complete.outputs,
    ),
]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="Fill ${params.NAME}; may be repeated.",
        autocompletion=complete.parameters,
        show_default=False,
        rich_help_panel=JOB,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key, such as steps.0.precision=fp32; may be repeated.",
        autocompletion=complete.settings,
        show_default=False,
        rich_help_panel=JOB,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON, last on stdout.", rich_help_panel=TOLD)]

Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="NAME", help="Only this column; may be repeated.", show_default=False),
]


class ProgressMode(StrEnum):
    """How a run is shown on stderr."""

    AUTO = "auto"
    BAR = "bar"
    PLAIN = "plain"
    NONE = "none"


class LogFormat(StrEnum):
    """What a line on stderr is."""

    TEXT = "text"
    JSON = "json"


class IfLocked(StrEnum):
    """What to do while another runner works on the output."""

    FAIL = "fail"
    WAIT = "wait"
    SKIP = "skip"


class LogLevel(StrEnum):
    """What libraries log on stderr."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Restart = Annotated[
    bool, typer.Option("--restart", help="Remove the former output and begin anew.", rich_help_panel=RUN)
]
Progress = Annotated[
    ProgressMode, typer.Option(help="auto: a bar on a terminal, else plain lines.", rich_help_panel=TOLD)
]
SingleWriter = Annotated[
    bool,
    typer.Option(
        "--single-writer",
        help="Run on a store without conditional creates: you see to it that no second run writes there.",
        rich_help_panel=RUN,
    ),
]
Logging = Annotated[LogLevel, typer.Option(help="Of libraries, on stderr.", rich_help_panel=TOLD)]
Lines = Annotated[
    LogFormat, typer.Option("--log-format", help="Of what is said and logged on stderr.", rich_help_panel=TOLD)
]
ResultFile = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Write the line of --json to a file too, however the run ends.",
        show_default=False,
        rich_help_panel=TOLD,
    ),
]
MetricsFile = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Keep the run's figures in a file as Prometheus text (.prom).",
        show_default=False,
        rich_help_panel=TOLD,
    ),
]
Locked = Annotated[
    IfLocked,
    typer.Option(
        "--if-locked",
        help="While another runner works on the output: exit 75, wait for it, or exit 99.",
        rich_help_panel=RUN,
    ),
]
