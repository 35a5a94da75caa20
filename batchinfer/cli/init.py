"""`batchinfer init` and `batchinfer schema`: how a job file begins, and what may stand in it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from batchinfer.cli.exits import guarded
from batchinfer.cli.streams import show
from batchinfer.errors import RefusedError


class SchemaOf(StrEnum):
    """What a schema is of."""

    JOB = "job"
    RUN_RESULTS = "run-results"


_QUESTIONS = {
    "--input": "Input (a Parquet file, a directory, a glob, or a URL)",
    "--model": "Model (hf:org/name, package:name/path, a .pt2 file, a folder, or module:Class)",
    "--output": "Output (a directory or URL prefix of its own)",
}


@guarded
def init(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="The job file to write.", show_default="job.yaml")
    ] = "job.yaml",
    input_: Annotated[
        str | None, typer.Option("--input", help="Parquet file, directory, glob or URL.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="hf:org/name, package:name/path, a file or folder, or module:Class.", show_default=False),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Directory or URL prefix for the predictions.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="The job's name; by default the file's.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> int:
    """Write a commented job file; asks for what isn't given.

    Examples:
        batchinfer init
        batchinfer init job.yaml --input data/ --model models:Model --output out
    """
    from batchinfer.job.template import render

    target = Path(path)
    if target.exists() and not force:
        raise RefusedError(f"{target} exists; --force replaces it")
    given = {"--input": input_, "--model": model, "--output": output}
    answers = [value or _ask(option) for option, value in given.items()]
    text = render(answers[0], answers[1], answers[2], name=name or target.stem)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as e:
        raise RefusedError(f"{target}: can't be written ({e.strerror})") from e
    show(f"wrote {target}; next: batchinfer validate {target}, then plan, then run")
    return 0


def _ask(option: str) -> str:
    if not sys.stdin.isatty():
        raise RefusedError(f"{option} is missing, and there is no terminal to ask on")
    sys.stderr.write(f"{_QUESTIONS[option]}: ")
    sys.stderr.flush()
    answer = sys.stdin.readline().strip()
    if not answer:
        raise RefusedError(f"{option} is missing")
    return answer


@guarded
def schema(
    of: Annotated[SchemaOf, typer.Argument(help="Job files, or the run_results.json of an output.")] = SchemaOf.JOB,
) -> int:
    """Print the JSON Schema of job files, or of what tells of a run.

    The former is for editors, the latter for programs that read run_results.json.

    Examples:
        batchinfer schema > job.v1.json
        batchinfer schema run-results > run_results.v1.json
    """
    import json

    from batchinfer.job.schema import json_schema as of_jobs
    from batchinfer.report.record import json_schema as of_results

    made = of_jobs() if of is SchemaOf.JOB else of_results()
    show(json.dumps(made, indent=2, ensure_ascii=False))
    return 0
