"""Arguments and options that several verbs share."""

from __future__ import annotations

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
