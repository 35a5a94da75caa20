"""What was measured of a model on this machine before, in the user's cache folder: a job that is run with new rows measures nothing.

An entry is one JSON file, named by the digest of everything that its figures depend on. Times depend on the model, its options,
the device, the threads, the budgets and the libraries. A verdict of the gate is of certain rows: it is kept by these too, and a job
with other rows compares again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_FORMAT = 2
"""Of the file, and of how what is in it was measured."""


class Remembered:
    """Figures by what they depend on, in `folder`. A file that is torn, or isn't what was asked for, is as good as none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The figures kept under a key (a JSON value); None where there are none."""
        try:
            kept = json.loads(self._file(key).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(kept, dict) or kept.get("key") != json.loads(_text(key)) or kept.get("format") != _FORMAT:
            return None
        figures = kept.get("figures")
        return figures if isinstance(figures, dict) and kept.get("digest") == _digest(figures) else None

    def keep(self, key: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        """Keep figures (a JSON value) under a key, in place of those that are there. A folder that can't be written is said, once a
        call, and costs the next run its time alone.
        """
        file = self._file(key)
        value = {"format": _FORMAT, "key": key, "figures": figures, "digest": _digest(figures)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=file.parent)
            try:
                with os.fdopen(handle, "w") as stream:
                    json.dump(value, stream)
                Path(name).replace(file)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as e:
            log.warning("what was measured isn't kept for the next run: %s (BATCHINFER_CACHE names another folder)", e)

    def _file(self, key: Mapping[str, Any]) -> Path:
        return self._folder / "measured" / f"{_digest(key)}.json"


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(value).encode()).hexdigest()
