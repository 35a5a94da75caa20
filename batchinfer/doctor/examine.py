"""The examination as a whole: the machine, and what a job needs of it. Each probe is by itself, and none takes longer than it may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchinfer.doctor import machine
from batchinfer.doctor.cluster import cluster
from batchinfer.doctor.credentials import credentials
from batchinfer.doctor.finding import Examination, Finding, State
from batchinfer.doctor.gpus import DRIVER_SECONDS, TORCH_SECONDS, gpus
from batchinfer.doctor.libraries import libraries
from batchinfer.doctor.needs import Needs
from batchinfer.doctor.probe import Probe, ask
from batchinfer.errors import JobFileError
from batchinfer.job.load import load
from batchinfer.job.secrets import Secrets

_QUICK = 10.0


@dataclass(frozen=True)
class JobFile:
    """A job as it is asked for on the command line."""

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    set_values: Sequence[str] = ()


def examine(environ: Mapping[str, str], home: Path, job: JobFile | None = None) -> Examination:
    """Look at this machine, and at what a job needs. Raises nothing that a probe does, and repeats no secret.

    Args:
        environ: the process's environment.
        home: the user's folder.
        job: the job; None: the machine alone.

    """
    sections: dict[str, list[Probe]] = {
        "machine": [
            Probe("system", _QUICK, machine.software),
            Probe("cpu", _QUICK, machine.processors),
            Probe("memory", _QUICK, machine.memory),
            Probe("gpu", 2 * DRIVER_SECONDS + TORCH_SECONDS, gpus),
        ],
        "installed": [Probe("libraries", _QUICK, libraries)],
        "credentials": [Probe("credentials", _QUICK, lambda: credentials(environ, home))],
        "ray": [Probe("ray", _QUICK, lambda: cluster(environ))],
        "disks": [Probe("disk", _QUICK, machine.disks)],
    }
    secrets, title, problems = Secrets.of_environment(environ), "", []
    if job is not None:
        title = f"job {job.path}"
        try:
            spec = load(job.path, job.params, job.set_values, environ)
        except JobFileError as error:
            problems = [Finding("job file", State.WRONG, line) for line in str(error).splitlines()]
        else:
            secrets |= spec.secrets
            sections[title] = Needs(spec, environ).probes()
    found = _asked(sections)
    if problems:
        found[title] = tuple(problems)
    return Examination({name: tuple(each.without(secrets) for each in told) for name, told in found.items()})


def _asked(sections: Mapping[str, Sequence[Probe]]) -> dict[str, tuple[Finding, ...]]:
    """What all probes find, asked side by side."""
    answers = iter(ask([probe for probes in sections.values() for probe in probes]))
    return {name: tuple(_next(answers, len(probes))) for name, probes in sections.items()}


def _next(answers: Iterator[tuple[Finding, ...]], number: int) -> Iterator[Finding]:
    for _ in range(number):
        yield from next(answers)
