"""Secrets in a job file: only by `${VAR}`, since the file is committed, copied and shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from batchinfer.job.interpolate import Reference
from batchinfer.job.place import Finding, Place

_SECRET_NAME = re.compile(r"key|secret|token|password|sas|connection_string", re.IGNORECASE)
_TRANSPORT_SECRET = re.compile(
    r".*(?:password|passwd|passphrase|secret|credentials?|token|api_?key|access_?key|connection_?string)", re.IGNORECASE
)
"""Of OpenLineage's transports, whose other keys (`tokenEndpoint`, `sasl.mechanism`) `_SECRET_NAME` would take for secrets."""
_USER_INFO = re.compile(r"://[^/@\s]*:[^/@\s]+@")
# gcsfs' ways of finding credentials, which its option `token` takes by name.
_NOT_SECRET = {"google_default", "cache", "anon", "browser", "cloud"}


def is_secret_name(name: str) -> bool:
    """Whether a key of this name may hold a secret."""
    return _SECRET_NAME.search(name) is not None


def named_secrets(sections: Iterable[Any]) -> Iterator[Any]:
    """The values in these sections that stand under the name of a secret, at any depth."""
    for section in sections:
        # One level deeper than it is: of `storage`, which `_leaves` is made for, the first level's keys are no names.
        for _, value, named_secret in _leaves({"": section}, ("",), named_secret=False):
            if named_secret:
                yield value


def storage_secrets(storage: Mapping[str, Any]) -> Iterator[Any]:
    """The values of storage options, by URL prefix, that stand under the name of a secret."""
    for _, value, named_secret in _leaves(dict(storage), ("storage",), named_secret=False):
        if named_secret:
            yield value


def literal_secrets(data: dict[str, Any], references: dict[Place, tuple[Reference, ...]]) -> Iterator[Finding]:
    """Every secret that stands in the file itself. No message repeats a value."""
    for place, value, named_secret in _leaves(data.get("storage"), ("storage",), named_secret=False):
        if named_secret and not from_environment(place, references):
            yield Finding(place, "a secret can't stand in a job file: write ${VAR} and set VAR in the environment")
        elif isinstance(value, str) and _USER_INFO.search(value) and place not in references:
            yield Finding(place, "a password can't stand in a job file: write ${VAR} and set VAR in the environment")


def literal_report_secrets(data: dict[str, Any], references: dict[Place, tuple[Reference, ...]]) -> Iterator[Finding]:
    """The same for what a job says of who is told of its runs."""
    report = data.get("report")
    for name, value in report.items() if isinstance(report, dict) else ():
        for place, inner, _ in _leaves(value, ("report", name), named_secret=False):
            if from_environment(place, references) or not isinstance(inner, str):
                continue
            if place[:3] == ("report", "openlineage", "transport") and _TRANSPORT_SECRET.fullmatch(str(place[-1])):
                yield Finding(place, "a secret can't stand in a job file: write ${VAR} and set VAR in the environment")
            elif _USER_INFO.search(inner):
                yield Finding(
                    place, "a password can't stand in a job file: write ${VAR} and set VAR in the environment"
                )


def passwords_in_urls(data: dict[str, Any]) -> Iterator[Finding]:
    """Credentials in the URLs of input, output and models: these are recorded, so not even `${VAR}` is safe there."""
    for place, value in _urls(data):
        if isinstance(value, str) and _USER_INFO.search(value):
            yield Finding(place, "has a password in its URL: give credentials under storage, by ${VAR}")


def _leaves(value: Any, place: Place, *, named_secret: bool) -> Iterator[tuple[Place, Any, bool]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            # The first level's keys are URL prefixes: a bucket may well be called keys.
            secret = named_secret or (len(place) > 1 and is_secret_name(key))
            yield from _leaves(inner, (*place, key), named_secret=secret)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*place, index), named_secret=named_secret)
    elif value not in ("", None) and not isinstance(value, bool) and value not in _NOT_SECRET:
        yield place, value, named_secret


def from_environment(place: Place, references: dict[Place, tuple[Reference, ...]]) -> bool:
    """Whether a variable without a literal default is in the value, by itself or through a parameter."""
    for reference in references.get(place, ()):
        if not reference.is_param and not reference.default:
            return True
        if reference.is_param and from_environment(("params", reference.name), references):
            return True
    return False


def _urls(data: dict[str, Any]) -> Iterator[tuple[Place, Any]]:
    for section in ("input", "output"):
        path = data[section].get("path") if isinstance(data.get(section), dict) else None
        yield (section, "path"), path
        for index, item in enumerate(path if isinstance(path, list) else []):
            yield (section, "path", index), item
    steps = data.get("steps")
    for index, step in enumerate(steps if isinstance(steps, list) else []):
        yield ("steps", index, "uri"), step.get("uri") if isinstance(step, dict) else None
