"""Arguments and options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

JOB_FILES = (".yaml", ".yml")

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="The job file.", show_default=False)]
Output = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="The job's output path, or its job file.", show_default=False)
]
Params = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="NAME=VALUE", help="Fill ${params.NAME}; may be repeated.", show_default=False),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key, such as steps.0.precision=fp32.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON, last on stdout.")]


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


Progress = Annotated[ProgressMode, typer.Option(help="auto: a bar on a terminal, else plain lines.")]
SingleWriter = Annotated[
    bool,
    typer.Option(
        "--single-writer",
        help="Run on a store without conditional creates: you see to it that no second run writes there.",
    ),
]
Logging = Annotated[LogLevel, typer.Option(help="Of libraries, on stderr.")]
Lines = Annotated[LogFormat, typer.Option("--log-format", help="Of what is said and logged on stderr.")]
ResultFile = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="Write the line of --json to a file too, however the run ends.", show_default=False
    ),
]
MetricsFile = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="Keep the run's figures in a file as Prometheus text (.prom).", show_default=False
    ),
]
Locked = Annotated[
    IfLocked,
    typer.Option("--if-locked", help="While another runner works on the output: exit 75, wait for it, or exit 99."),
]
