"""Local paths of a job file: relative ones belong to its folder, so that a job means the same from anywhere."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_class(uri: str) -> bool:
    """Whether it is spelled `module:Class`."""
    return _CLASS.fullmatch(uri) is not None


def is_url(path: str) -> bool:
    """Whether it names a store by a scheme, as opposed to a place on this machine."""
    return "://" in path


def resolve(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A copy of the job's values in which every local path is absolute and normalised.

    Values of a wrong shape stay as they are: validation reports them.
    """

    def path(value: Any) -> Any:
        return absolute(value, folder) if isinstance(value, str) else value

    def paths(value: Any) -> Any:
        return [path(item) for item in value] if isinstance(value, list) else path(value)

    def uri(value: Any) -> Any:
        return value if isinstance(value, str) and _names_no_path(value) else path(value)

    def tracking(value: Any) -> Any:
        return value if isinstance(value, str) and value.startswith("databricks") else path(value)

    def step(value: Any) -> Any:
        resolved = _with(value, "uri", uri)
        return _with(resolved, "options", options)

    def options(value: Any) -> Any:
        resolved = _with(_with(value, "weights", uri), "calibration", uri)
        return _with(resolved, "images", lambda images: _with(images, "root", path))

    data = _with(data, "code", lambda code: paths(code) if isinstance(code, list) else code)
    data = _with(data, "input", lambda section: _with(section, "path", paths))
    for key in ("output", "cache"):
        data = _with(data, key, lambda section: _with(section, "path", path))
    data = _with(data, "report", lambda report: _with(report, "mlflow", lambda m: _with(m, "tracking_uri", tracking)))
    resolved: dict[str, Any] = _with(
        data, "steps", lambda steps: [step(s) for s in steps] if isinstance(steps, list) else steps
    )
    return resolved


def absolute(path: str, folder: Path) -> str:
    """The path as an absolute one; URLs, and the empty path that validation refuses, are left alone."""
    if not path or is_url(path):
        return path
    # Path.expanduser raises for an unknown user; here ~nobody is then a folder's name, as in a shell.
    return os.path.normpath(folder / os.path.expanduser(path))  # noqa: PTH111


def comparable(path: str) -> str:
    """A spelling by which equal directories are equal: no trailing slash, no `.`, no `file://`."""
    path = path.removeprefix("file://")
    scheme, separator, rest = path.rpartition("://")
    return scheme + separator + posixpath.normpath(rest) if rest else path


def _names_no_path(uri: str) -> bool:
    return uri.startswith(("hf:", "package:", "models:/", "runs:/")) or is_url(uri) or is_class(uri)


def _with(section: Any, key: str, change: Any) -> Any:
    if isinstance(section, dict) and key in section:
        return {**section, key: change(section[key])}
    return section
