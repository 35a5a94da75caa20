"""`batchinfer submit`, `wait` and `cancel`: runs that go on without a terminal, and without a server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from batchinfer.cli.exits import assignments, guarded
from batchinfer.cli.logs import kept
from batchinfer.cli.options import JobFile, Json, Output, Params, Restart, Sets, SingleWriter
from batchinfer.cli.ranges import days_of
from batchinfer.cli.status import opened
from batchinfer.cli.streams import show, show_json, tell
from batchinfer.errors import BatchinferError, RefusedError, StoppedError

if TYPE_CHECKING:
    from batchinfer.api import Run
    from batchinfer.job.spec import JobSpec

_LOOK_SECONDS = 0.25
_SHOWN_LINES = 20


@guarded
def submit(
    job: JobFile,
    param: Params = None,
    set_: Sets = None,
    restart: Restart = False,
    single_writer: SingleWriter = False,
    as_json: Json = False,
) -> int:
    """Run a job in the background.

    Returns as soon as it is at work: see status, wait and cancel. What it says goes to a log file.

    Examples:
        batchinfer submit job.yaml
        batchinfer submit job.yaml --param day=2026-11-22 --json

    Exit codes:
        0: it is at work, or was complete already
        2: refused, as run refuses it
    """
    from batchinfer.job.load import load
    from batchinfer.job.secrets import Secrets

    given = assignments(param)
    if days_of(given) is not None:
        raise RefusedError(
            "--param: a range of days is several runs, which batchinfer run makes; submit makes one: give one day"
        )
    with kept(Secrets.of_environment(os.environ)):
        spec = load(job, given, set_ or ())
    with kept(spec.secrets):
        return _submitted(
            spec, _command(job, param, set_, restart=restart, single_writer=single_writer), as_json=as_json
        )


def _command(
    job: str, param: list[str] | None, set_: list[str] | None, *, restart: bool, single_writer: bool
) -> list[str]:
    """The program that runs the job."""
    command = [sys.executable, "-m", "batchinfer", "run", job, "--progress", "plain"]
    command += [word for text in param or () for word in ("--param", text)]
    command += [word for text in set_ or () for word in ("--set", text)]
    return [*command, *(["--restart"] if restart else []), *(["--single-writer"] if single_writer else [])]


def _submitted(spec: JobSpec, command: list[str], *, as_json: bool) -> int:
    from batchinfer.precision.artefacts import cache_folder

    folder = cache_folder() / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, log = tempfile.mkstemp(
        dir=folder, prefix=f"{spec.name}-{time.strftime('%Y%m%dT%H%M%S')}-", suffix=".log"
    )
    with open(descriptor, "w") as file:  # noqa: PTH123 - of a descriptor
        process = _begun(command, file)
        job8 = _at_work(process, spec)
    told = Path(log).read_text(errors="replace").rstrip()
    if job8 is None and process.returncode:
        tell("\n".join(told.splitlines()[-_SHOWN_LINES:]))
        return process.returncode
    value = {
        "job": job8,
        "pid": process.pid,
        "log": log,
        "output": spec.output.path,
        "ended": process.returncode is not None,
    }
    if as_json:
        show_json(value)
    elif job8 is None:
        show(told)
    else:
        show(f"{spec.name}: at work as {job8} (process {process.pid}); what it says goes to {log}")
        show(
            f"  batchinfer status {spec.output.path} --watch\n  batchinfer wait {spec.output.path}\n  batchinfer cancel {spec.output.path}"
        )
    return 0


def _begun(command: list[str], log: IO[str]) -> subprocess.Popen[bytes]:
    """The program, which goes on when this one and its terminal have gone."""
    return subprocess.Popen(  # noqa: S603 - this very program, with the words that it was given
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def _at_work(process: subprocess.Popen[bytes], spec: JobSpec) -> str | None:
    """The job that the process is the runner of; None where it has ended before it was one."""
    from batchinfer.api import open_run

    while process.poll() is None:
        try:
            run = open_run(spec.output.path, spec.storage)
            runner = run.runner()
            if runner is not None and runner.state == "alive" and runner.owner.startswith(f"process {process.pid} "):
                return run.job8
        except BatchinferError:  # nothing is there yet, or the store is away, of which the program itself says so
            pass
        time.sleep(_LOOK_SECONDS)
    return None


@guarded
def wait(
    output: Output,
    param: Params = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Wait no longer.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> int:
    """Wait until a job's run has ended.

    The exit code is the run's.

    Examples:
        batchinfer wait job.yaml
        batchinfer wait out/predictions --timeout 3600

    Exit codes:
        75: it has not ended in time, or its runner is gone
    """
    with opened(output, param) as run:
        code = run.wait(timeout)
        if code is None:
            runner = run.runner()
            gone = runner is None or runner.state == "dead"
            told = (
                "its runner is gone: run the same command to go on"
                if gone
                else "it has not ended, or its runner gives no sign of life"
            )
            raise StoppedError(f"{run.path}: {told}")
        _told(run, as_json=as_json)
    return code


def _told(run: Run, *, as_json: bool) -> None:
    if as_json:
        show_json(run.record)
    else:
        show(f"{run.name}: {run.state} (exit code {run.exit_code})")


@guarded
def cancel(output: Output, param: Params = None, as_json: Json = False) -> int:
    """Ask a job's runner to checkpoint and end.

    On whatever machine it is: it looks every ten seconds. A later run goes on from there.

    Examples:
        batchinfer cancel job.yaml
        batchinfer cancel out/predictions
    """
    with opened(output, param) as run:
        asked, runner = run.cancel(), run.runner()
        if as_json:
            show_json({"asked": asked, "runner": None if runner is None else runner.owner, "output": run.path})
        elif asked and runner is not None:
            show(f"{run.name}: {runner.owner} was asked to end, and looks every ten seconds")
        else:
            show(f"{run.name}: nobody is running it")
    return 0
