"""The parameters of a job file: what is declared under `params`, and what `--param name=value` gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchinfer.job.interpolate import Interpolation, Interpolator
from batchinfer.job.nearest import nearest
from batchinfer.job.place import COMMAND_LINE, Finding
from batchinfer.job.scalar import typed

_TYPES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}


def resolve(
    declared: Any, given: Mapping[str, str], environ: Mapping[str, str], into: Interpolation
) -> tuple[Any, Interpolator]:
    """The parameters with their values, and what fills them in elsewhere.

    A parameter declared as null must be given. A given value is text, or of its declared default's type.
    """
    interpolator = Interpolator(environ, params=None)
    if not isinstance(declared, dict):
        declared_params: dict[str, Any] = {}
        values = declared
    else:
        declared_params = declared
        values = {name: _value(name, default, given, interpolator, into) for name, default in declared.items()}
    for name in given:
        if name not in declared_params:
            into.findings.append(Finding(("params", name), _unknown(name, declared_params), COMMAND_LINE))
    known = {name: values[name] for name in declared_params if _is_simple(values[name])}
    missing = {name for name in known if ("params", name) in into.unresolved}
    for name, value in known.items():
        if value is None:
            missing.add(name)
            into.findings.append(Finding(("params", name), f"must be given: give it with --param {name}=…"))
    return values, Interpolator(environ, known, frozenset(missing))


def _value(name: str, default: Any, given: Mapping[str, str], interpolator: Interpolator, into: Interpolation) -> Any:
    if name not in given:
        return interpolator.fill(default, ("params", name), into)
    # A default that isn't used is not filled in either, so that its variables may be unset.
    return _convert(name, given[name], default, into)


def _is_simple(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _convert(name: str, text: str, default: Any, into: Interpolation) -> Any:
    value = typed(text)
    if isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, int):
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits and isinstance(value, int) else value
    else:
        return text
    if fits:
        return value
    wanted = _TYPES[type(default)]
    message = f"--param {name}=… must be {wanted}, as its default in the file is"
    into.findings.append(Finding(("params", name), message, COMMAND_LINE))
    return default


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    if meant := nearest(name, known):
        return f"--param {name}=… names no parameter of the file: did you mean {meant}?"
    has = f"it has {', '.join(known)}" if known else f"declare it there: params: {{{name}: null}}"
    return f"--param {name}=… names no parameter of the file: {has}"
