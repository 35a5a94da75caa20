"""`${VAR}` and `${params.x}` in the values of a job file.

    ${VAR}             of the environment; unset is an error
    ${VAR:-default}    the default when VAR is unset or empty
    ${VAR:?message}    an error with the message when VAR is unset or empty
    ${params.x}        a parameter; as the whole value it keeps the parameter's type
    $$                 a dollar

Text from outside has no type of its own. A value that is one reference has therefore two readings, the text and what
the text means in YAML, and validation takes the one that fits: `rows: ${ROWS:-32}` is a number, `name: ${N}` is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from batchinfer.job.nearest import nearest
from batchinfer.job.place import Finding, Place
from batchinfer.job.scalar import Scalar, as_text, typed

_TOKEN = re.compile(r"\$\$|\$\{([^}]*)\}|\$\{")
_REFERENCE = re.compile(
    r"params\.(?P<param>[A-Za-z_][A-Za-z0-9_-]*)"
    r"|(?P<variable>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<how>:-|:\?)(?P<rest>[^$]*))?",
    re.DOTALL,
)


class Reference(NamedTuple):
    """One `${…}`."""

    name: str
    is_param: bool
    default: str = ""


@dataclass
class Interpolation:
    """What came of filling in the references of some values."""

    references: dict[Place, tuple[Reference, ...]] = field(default_factory=dict)
    """The places with references; their values are never echoed, they may be secrets."""
    taken: dict[Place, tuple[str, ...]] = field(default_factory=dict)
    """What the environment gave for the value there, directly or through a parameter."""
    other_readings: dict[Place, Scalar] = field(default_factory=dict)
    """The second reading of a value that is one reference, where it has two."""
    unresolved: set[Place] = field(default_factory=set)
    """Left as written, because of a finding here or at the parameter."""
    findings: list[Finding] = field(default_factory=list)


class _UnresolvedError(Exception):
    """The reference has no value; the message is empty where the mistake is reported elsewhere."""


@dataclass(frozen=True)
class Interpolator:
    """Fills in references from an environment and parameters."""

    environ: Mapping[str, str]
    params: Mapping[str, Scalar] | None
    """None while the parameters themselves are filled in: they can't refer to each other."""
    missing: frozenset[str] = frozenset()
    """Parameters that are declared and have no value, which is reported once at the parameter."""

    def fill(self, value: Any, place: Place, into: Interpolation) -> Any:
        """A copy of the value with its references filled in; what is to be known about it is added to `into`."""
        if isinstance(value, dict):
            return {key: self.fill(inner, (*place, key), into) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.fill(inner, (*place, index), into) for index, inner in enumerate(value)]
        return self._text(value, place, into) if isinstance(value, str) else value

    def _text(self, text: str, place: Place, into: Interpolation) -> Any:
        references: list[Reference] = []
        parts: list[Scalar] = []
        at = 0
        try:
            for token in _TOKEN.finditer(text):
                parts.append(text[at : token.start()])
                at = token.end()
                if token[0] == "$$":
                    parts.append("$")
                    continue
                reference, value = self._resolve(token[1])
                references.append(reference)
                parts.append(value)
                self._note_taken(reference, place, into)
        except _UnresolvedError as error:
            into.unresolved.add(place)
            if str(error):
                into.findings.append(Finding(place, str(error)))
            return text
        if not references:
            return "".join(as_text(part) for part in parts) + text[at:]
        into.references[place] = tuple(references)
        whole = _TOKEN.fullmatch(text) is not None
        return _whole(parts[-1], references[0], place, into) if whole else "".join(map(as_text, parts)) + text[at:]

    def _note_taken(self, reference: Reference, place: Place, into: Interpolation) -> None:
        taken: tuple[str, ...] = ()
        if reference.is_param:
            taken = into.taken.get(("params", reference.name), ())
        elif value := self.environ.get(reference.name):
            taken = (value,)
        if taken:
            into.taken[place] = (*into.taken.get(place, ()), *taken)

    def _resolve(self, body: str | None) -> tuple[Reference, Scalar]:
        match = _REFERENCE.fullmatch(body) if body is not None else None
        if match is None:
            raise _UnresolvedError(
                "write ${NAME}, ${NAME:-default} or ${params.name}, not nested; a dollar itself is $$"
            )
        if match["param"] is not None:
            return Reference(match["param"], is_param=True), self._param(match["param"])
        variable, how, rest = match["variable"], match["how"], match["rest"] or ""
        value = self.environ.get(variable)
        if how is None and value is None:
            raise _UnresolvedError(
                f"the environment variable {variable} is not set: set it, or give a default, ${{{variable}:-default}}"
            )
        if how == ":?" and not value:
            raise _UnresolvedError(f"the environment variable {variable} is not set: {rest or 'set it'}")
        default = rest if how == ":-" else ""
        return Reference(variable, is_param=False, default=default), (value or default)

    def _param(self, name: str) -> Scalar:
        if self.params is None:
            raise _UnresolvedError(
                "a parameter can't refer to another one: write the value, or ${VAR} of the environment"
            )
        if name in self.missing:
            raise _UnresolvedError
        if name not in self.params:
            meant = nearest(name, self.params)
            advice = f"did you mean ${{params.{meant}}}?" if meant else f"declare it: params: {{{name}: null}}"
            raise _UnresolvedError(f"there is no parameter {name}: {advice}")
        return self.params[name]


def _whole(value: Scalar, reference: Reference, place: Place, into: Interpolation) -> Scalar:
    """The value of a text that is one reference and nothing else."""
    if isinstance(value, str) and not reference.is_param:
        value = _untyped_place(value, place)
    other = typed(value) if isinstance(value, str) else as_text(value)
    if other != value:
        into.other_readings[place] = other
    return value


def _untyped_place(text: str, place: Place) -> Scalar:
    """The reading of a variable where any type is allowed, so that validation can't choose.

    In an engine's options it is what it would be if it stood there. In storage options, where keys and passwords may be
    all digits, it stays text apart from true and false.
    """
    in_options = place[:1] == ("steps",) and place[2:3] == ("options",)
    in_storage = place[:1] == ("storage",)
    value = typed(text) if in_options or in_storage else text
    return text if in_storage and not isinstance(value, bool) else value
