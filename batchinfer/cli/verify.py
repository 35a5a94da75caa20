"""`batchinfer verify`: whether an output is what a run left."""

from __future__ import annotations

from typing import Annotated

import typer

from batchinfer.cli.exits import guarded
from batchinfer.cli.options import Json, Output, Params
from batchinfer.cli.render import table
from batchinfer.cli.status import located
from batchinfer.cli.streams import show, show_json


@guarded
def verify(
    output: Output,
    param: Params = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every page too, and compare with the input.")] = False,
    as_json: Json = False,
) -> int:
    """Prove that every planned row is there exactly once.

    From the files alone.

    Examples:
        batchinfer verify job.yaml
        batchinfer verify out/predictions --deep --json

    Exit codes:
        0: it is as a run left it, with every row accounted for
        2: there is no job
        3: something speaks against it, which is listed
    """
    from batchinfer.api import verify_output
    from batchinfer.plan.describe import count, size
    from batchinfer.report.words import counts

    with located(output, param) as (path, storage):
        made = verify_output(path, storage, deep=deep)
    if as_json:
        show_json({**made.to_json(), "output": path})
        return made.exit_code
    lines = [
        ("rows", counts(made.rows)),
        ("read", f"{count(made.parts, 'part')}, {size(made.bytes)} with dead letters"),
        *(("note", note) for note in made.notes),
        *((str(f.kind), f"{f.path}: {f.message}\n{f.advice}") for f in made.findings),
    ]
    headline = (
        count(len(made.findings), "finding") if made.findings else "all as it was written, every row accounted for"
    )
    show(f"{path}: {headline}\n{table(lines)}")
    return made.exit_code
