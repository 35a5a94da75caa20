"""`batchinfer report`: the page about what a job did."""

from __future__ import annotations

from typing import Annotated

import typer

from batchinfer.cli.exits import guarded
from batchinfer.cli.options import Json, Output, Params
from batchinfer.cli.outcome import check_place
from batchinfer.cli.status import opened
from batchinfer.cli.streams import show, show_json


@guarded
def report(
    output: Output,
    param: Params = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="OTHER",
            help="Show its predictions beside these: another output, or a profile of drift --save. Default: the run before.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="FILE", help="Write the page to this file, and not to the output.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Draw report.html anew, from what the output says now.

    Every run leaves one beside its state, unless the job file has report.html: false. The page needs no other file and no network.

    Examples:
        batchinfer report job.yaml
        batchinfer report out/2026-11-28 --reference out/2026-11-27
        batchinfer report s3://lake/predictions --to report.html

    Exit codes:
        0: it is written, and its path is on stdout
        2: there is no job, or nothing to report yet
    """
    check_place(to, "--to")
    with opened(output, param) as run:
        path = run.report(reference, to=to)
    if as_json:
        show_json({"report": path})
    else:
        show(path)
    return 0
