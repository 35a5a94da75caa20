"""From a job file to a validated `JobSpec`, or one `JobFileError` with every mistake in it.

text ─document→ values with lines ─overrides→ ─params, interpolate→ ─locations→ absolute paths ─spec→ JobSpec
                                                                                └ checks, credentials ┘
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from batchinfer.errors import JobFileError, Problem
from batchinfer.job import checks, credentials, document, interpolate, locations, overrides, params, problems
from batchinfer.job.document import Document
from batchinfer.job.place import Finding, Place, printable, spell, within
from batchinfer.job.schema import model_schema
from batchinfer.job.secrets import SHORTEST, Secrets
from batchinfer.job.spec import JobSpec
from batchinfer.job.written import Written

_NONE: Mapping[str, str] = MappingProxyType({})


def load(
    path: str | Path,
    params: Mapping[str, str] = _NONE,
    set_values: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> JobSpec:
    """The job of a file; `params` are those of `--param`, `set_values` those of `--set`.

    `environ` is by default the process's environment. Raises `JobFileError` with all that is wrong.
    """
    path = Path(path)
    text = document.read(path)
    return load_text(text, str(path), path.parent, params, set_values, environ)


def load_text(
    text: str,
    source: str,
    folder: str | Path,
    params: Mapping[str, str] = _NONE,
    set_values: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> JobSpec:
    """The job of a file's text; `source` is what messages call it, `folder` what its relative paths are relative to."""
    return _Reading(document.parse(text, source), source, Path(folder), environ).job(params, set_values)


def from_fields(fields: Mapping[str, Any], folder: str | Path = ".") -> JobSpec:
    """The job of Python values under the same names, with the same rules: `${VAR}` is filled in here too."""
    return _Reading(document.from_python(fields, "Job(...)"), "Job(...)", Path(folder), None).job(_NONE, ())


def from_record(
    record: Mapping[str, Any], params: Mapping[str, str] = _NONE, set_values: Sequence[str] = ()
) -> JobSpec:
    """The job of a record that `Written.to_json` made; `params` and `set_values` come on top of those that it was made with."""
    read = document.from_python(record["document"], "the recorded job")
    reading = _Reading(read, "the recorded job", Path(record["folder"]), None)
    return reading.job({**record["params"], **params}, set_values)


class _Reading:
    """One reading of one document: the values on their way to a job, and what was found on it."""

    def __init__(self, read: Document, source: str, folder: Path, environ: Mapping[str, str] | None) -> None:
        self._source = source
        # Not resolve(): a job that is reached through a link means paths beside the link.
        self._folder = folder.absolute()
        self._environ = os.environ if environ is None else environ
        self._lines = read.lines
        self._findings = list(read.findings)
        self._from_set: list[Place] = []
        self._filled = interpolate.Interpolation()
        self._written = self._mapping(read.value)

    def job(self, given: Mapping[str, str], set_values: Sequence[str]) -> JobSpec:
        """The job, or `JobFileError`."""
        self._from_set, findings = overrides.apply(self._written, set_values)
        self._findings += findings
        data = self._fill(self._with_steps(), given)
        spec, data = self._validate(data)
        self._check(data)
        if spec is None or self._findings or self._filled.findings:
            raise JobFileError(self._source, self._problems())
        references = self._filled.references
        secret = frozenset(place for place in references if credentials.from_environment(place, references))
        return spec.as_written(Written(self._written, dict(given), str(self._folder), secret, self._secrets(data)))

    def _secrets(self, data: dict[str, Any]) -> Secrets:
        """What messages may not repeat.

        What stands under the name of a secret, in the job or in the environment; and whatever else the job took from the
        environment, but for short values and for those that stand in a path, an address or a name too, which are recorded and shown.
        """
        steps = [step.get("uri") for step in data["steps"]]
        shown = repr(
            [data["input"]["path"], data["output"]["path"], data.get("code"), data["name"], steps, _told_by(data)]
        )
        taken = {text for texts in self._filled.taken.values() for text in texts}
        sections = [data.get("params"), data.get("metadata"), *(step.get("options") for step in data["steps"])]
        return (
            Secrets(frozenset(t for t in taken if len(t) >= SHORTEST and t not in shown))
            | Secrets.of_storage(data.get("storage") or {})
            | Secrets.of_options(sections)
            | Secrets.of_environment(self._environ)
        )

    def _mapping(self, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        message = "is empty" if value is None else "holds no mapping at its top"
        advice = "write version, name, input, model and output; batchinfer init writes a file to start from"
        raise JobFileError(self._source, [Problem("", f"{message}: {advice}", None if value is None else 1)])

    def _with_steps(self) -> dict[str, Any]:
        data = dict(self._written)
        if "model" in data:
            model = data.pop("model")
            if "steps" in data:
                self._findings.append(Finding(("model",), "give model or steps, not both"))
                self._filled.unresolved.add(("steps",))
            else:
                data["steps"] = [model]
        elif "steps" not in data:
            message = "is missing: describe the model, with engine, uri, inputs and outputs"
            self._findings.append(Finding(("steps",), message))
        return data

    def _fill(self, data: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
        values, interpolator = params.resolve(data.get("params", {}), given, self._environ, self._filled)
        rest = {key: value for key, value in data.items() if key != "params"}
        filled: dict[str, Any] = interpolator.fill(rest, (), self._filled)
        return {**filled, "params": values}

    def _validate(self, data: dict[str, Any]) -> tuple[JobSpec | None, dict[str, Any]]:
        """The job if the values have the right shapes, and the values as they were understood."""
        data = locations.resolve(data, self._folder)
        spec, error = _model(data)
        if error is not None:
            places = {problems.place_of(e, data) for e in error.errors(include_url=False)}
            if self._reread(data, places):
                data = locations.resolve(data, self._folder)
                spec, error = _model(data)
        if error is not None:
            self._findings += problems.translate(
                error.errors(include_url=False), data, model_schema(), lambda place: self._may_echo(place)
            )
        return spec, data

    def _reread(self, data: dict[str, Any], places: set[Place]) -> bool:
        """Give each of these places its other reading, where it has one; whether any had."""
        reread = places & self._filled.other_readings.keys()
        for place in reread:
            container = problems.value_at(data, place[:-1])
            container[place[-1]] = self._filled.other_readings[place]
        return bool(reread)

    def _check(self, data: dict[str, Any]) -> None:
        self._findings += checks.check(data)
        self._findings += checks.output_parameters(data["params"], self._filled.references)
        self._findings += credentials.literal_secrets(data, self._filled.references)
        self._findings += credentials.literal_report_secrets(data, self._filled.references)
        self._findings += credentials.passwords_in_urls(data)

    def _may_echo(self, place: Place) -> bool:
        return place[:1] != ("storage",) and place not in self._filled.references

    def _problems(self) -> list[Problem]:
        """One for each place, in the order of the file."""
        found: list[Problem] = []
        reported: set[Place] = set()
        for finding in self._filled.findings:
            reported.add(finding.place)
            found.append(self._problem(finding))
        for finding in self._findings:
            # What is left unfilled is wrong in other ways too, which say nothing.
            if finding.place not in reported and not within(finding.place, self._filled.unresolved):
                found.append(self._problem(finding))
            if finding.place:
                reported.add(finding.place)
        return sorted(found, key=lambda problem: (problem.line or 0, problem.where))

    def _problem(self, finding: Finding) -> Problem:
        place = self._as_written(finding.place)
        where, message = printable(spell(place)), printable(finding.message)
        if self._is_from_set(place):
            return Problem(where, f"{message} (given by --set)")
        line = self._line(place) if finding.line is None else finding.line
        return Problem(where, message, line or None)

    def _is_from_set(self, place: Place) -> bool:
        """Whether the value there, or a mapping that was made on the way to it, was given by --set."""
        if within(place, self._from_set):
            return True
        return bool(place) and place not in self._lines and any(within(given, [place]) for given in self._from_set)

    def _as_written(self, place: Place) -> Place:
        if "steps" in self._written or place[:1] != ("steps",):
            return place
        return ("model", *place[2:])

    def _line(self, place: Place) -> int | None:
        """The line of the place, or of what it would stand in."""
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place)


def _told_by(data: dict[str, Any]) -> list[Any]:
    """The names by which OpenLineage and MLflow are to know the job."""
    report = data.get("report", {})
    lineage, mlflow = report.get("openlineage"), report.get("mlflow")
    return [
        *([lineage.get(key) for key in ("namespace", "job")] if isinstance(lineage, dict) else []),
        *([mlflow.get(key) for key in ("experiment", "run_name", "tags")] if isinstance(mlflow, dict) else []),
    ]


def _model(data: dict[str, Any]) -> tuple[JobSpec | None, ValidationError | None]:
    # The error is given back, not raised on: as the context of another one it would carry the values along.
    try:
        return JobSpec.model_validate(data), None
    except ValidationError as error:
        return None, error
