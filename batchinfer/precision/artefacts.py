"""Files that are built once from a model, such as its quantized form, or fetched once, kept by what they were made of.

They lie under `$BATCHINFER_CACHE`, or `batchinfer` in the user's cache folder; deleting them costs building them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from batchinfer.errors import ModelError

_RECORD = "artefact.json"


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """`$BATCHINFER_CACHE`, or batchinfer's folder in the user's cache folder."""
    known = os.environ if environment is None else environment
    if named := known.get("BATCHINFER_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "batchinfer"
    return Path(known.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchinfer"


def artefact(made_of: Mapping[str, str], build: Callable[[Path], None]) -> Path:
    """The folder of what `build` writes, which is called, with an empty folder, only where that isn't there yet and whole.

    `made_of` names everything that decides about the result: digests, recipe, versions of libraries. Several processes
    may ask at once: each may build, one result stays. Raises what `build` raises, and ModelError where nothing can be kept.
    """
    kept = place_of(made_of)
    if _whole(kept, made_of):
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{kept.name[:16]}-", dir=kept.parent))
    except OSError as error:
        raise ModelError(
            f"{kept.parent} can't be written: set BATCHINFER_CACHE to a folder that can ({error})"
        ) from error
    try:
        build(place)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        told = {path.relative_to(place).as_posix(): digest(path) for path in files}
        (place / _RECORD).write_text(json.dumps({"made_of": dict(made_of), "files": told}, indent=2))
        for path in (*files, place / _RECORD):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        _publish(place, kept, made_of)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return kept


def place_of(made_of: Mapping[str, str]) -> Path:
    """The folder that `artefact` gives for it, which may not be there yet."""
    key = hashlib.sha256(json.dumps(dict(made_of), sort_keys=True).encode()).hexdigest()
    return cache_folder() / "artefacts" / key


def is_kept(made_of: Mapping[str, str]) -> bool:
    """Whether it is there, and whole."""
    return _whole(place_of(made_of), made_of)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(place: Path, kept: Path, made_of: Mapping[str, str]) -> None:
    """Give a finished folder its name, in place of a damaged one; a whole one that came before stays."""
    try:
        place.rename(kept)
    except OSError:
        if _whole(kept, made_of):
            return
        aside = Path(tempfile.mkdtemp(prefix=".damaged-", dir=kept.parent))
        kept.rename(aside / kept.name)
        shutil.rmtree(aside)
        place.rename(kept)


def _whole(folder: Path, made_of: Mapping[str, str]) -> bool:
    """Whether a folder holds what was recorded when it was built, and of this."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        files = record["files"]
        return (
            record["made_of"] == dict(made_of)
            and bool(files)
            and all(digest(folder / name) == told for name, told in files.items())
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
