"""Drift of an output from a reference: another output, or a profile that was saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from batchinfer.api.outputs import open_output
from batchinfer.api.run import Run, open_run
from batchinfer.errors import OutputError
from batchinfer.report.drift import Drift, Thresholds, drift
from batchinfer.report.profile import Profile
from batchinfer.storage.store import StorageOptions

_MOST_BYTES = 64 * 2**20
PROFILE_FILES = (".json",)


def drift_of(
    output: Run | Profile,
    reference: Run | Profile | str | Path,
    *,
    columns: Sequence[str] = (),
    total_variation: float | None = None,
    hellinger: float | None = None,
    storage: StorageOptions | None = None,
) -> Drift:
    """How far the predictions of an output are, as distributions, from those of a reference.

    Args:
        output: a run, or its profile.
        reference: another run or profile; or the path or URL of an output, or of a profile that `save_profile` wrote.
        columns: those that are compared; by default those that the steps computed.
        total_variation: what no column may exceed.
        hellinger: as `total_variation`.
        storage: fsspec options by URL prefix, for the reference.

    Raises:
        RefusedError: a column isn't there, a threshold is none, or there is no row.
        OutputError: the reference is neither an output nor a profile, or is damaged.

    """
    thresholds = Thresholds(total_variation, hellinger)
    named = list(columns) or None
    now = output.profile(named) if isinstance(output, Run) else output
    return drift(now, profile_of(reference, named, storage), columns, thresholds)


def profile_of(
    reference: Run | Profile | str | Path, columns: Sequence[str] | None, storage: StorageOptions | None
) -> Profile:
    """The profile of a reference: see `drift_of`."""
    if isinstance(reference, str | Path):
        path = str(reference)
        reference = load_profile(path, storage) if path.endswith(PROFILE_FILES) else open_run(path, storage)
    return reference.profile(columns) if isinstance(reference, Run) else reference


def save_profile(made: Profile, path: str, storage: StorageOptions | None = None) -> None:
    """Write a profile as JSON, to a local path or a URL; a file of that name is replaced."""
    folder, name = _divided(path)
    text = json.dumps(made.to_json(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    open_output(folder, storage or {}, scratch=None).put(name, f"{text}\n".encode())


def load_profile(path: str, storage: StorageOptions | None = None) -> Profile:
    """The inverse of `save_profile`. Raises OutputError where there is no file, or another one."""
    folder, name = _divided(path)
    try:
        data = open_output(folder, storage or {}, scratch=None).read(name, 0, _MOST_BYTES)
    except FileNotFoundError:
        raise OutputError(f"{path}: there is no such file: save a reference there with drift --save") from None
    try:
        return Profile.from_json(json.loads(data), path)
    except (ValueError, RecursionError) as e:
        raise OutputError(f"{path}: not a profile of batchinfer, as it is no JSON ({e})") from e


def _divided(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder or ("/" if path.startswith("/") else "."), name
