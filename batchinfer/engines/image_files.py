"""Files that the rows of a column name by their paths, read through the store that holds them."""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from batchinfer.data.volumes import absolute
from batchinfer.errors import ModelError
from batchinfer.storage.store import StorageOptions, Store, is_local, open_store

_AT_A_TIME = 16
"""Files that are fetched at a time: a store answers late, and many at once."""

_LONGEST = 1024
"""Characters of a path: stores refuse longer ones in words of their own."""


class Files:
    """Files below one folder or URL. Others are not read: what a table names isn't trusted.

    Args:
        root: the folder or URL; None where rows may name no files.
        storage: fsspec options by URL prefix.
        where: key of the job file, for messages.

    """

    def __init__(self, root: str | None, storage: StorageOptions, where: str) -> None:
        self._root = None if root is None else absolute(root)
        self._storage, self._where = storage, where
        self._store: Store | None = None
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[type[Files], tuple[str | None, StorageOptions, str]]:
        return type(self), (self._root, self._storage, self._where)

    def open(self) -> None:
        """Open the store. Raises ModelError for a folder that isn't there, RefusedError for a URL that can't be used, MissingExtraError."""
        if self._root is not None and is_local(self._root) and not Path(self._root).is_dir():
            raise ModelError(f"{self._where}.root: there is no folder {self._root}")
        with self._opening:
            if self._root is not None and self._store is None:
                self._store = open_store(self._root, self._storage)

    def check(self, name: str) -> None:
        """Raises ModelError where rows may name no files."""
        if self._root is None:
            raise ModelError(
                f"{self._where}.root: is missing: the input {name} holds paths, so say which folder or URL they are below"
            )

    def read(self, paths: Sequence[str], name: str) -> list[bytes]:
        """The files of these paths, which are relative to the root or begin with it; `name` is the input's.

        Raises ValueError for a path that isn't below the root or names no file, and what the store raises where it is away.
        """
        self.open()
        places = [self._inside(path, name) for path in paths]
        with ThreadPoolExecutor(min(_AT_A_TIME, len(places)) or 1) as pool:
            return list(pool.map(lambda place: self._one(place, name), places))

    def _one(self, place: str, name: str) -> bytes:
        assert self._store is not None
        try:
            return self._store.read(place)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ValueError(f"input {name}: there is no file {place} below {self._root}") from None

    def _inside(self, path: str, name: str) -> str:
        """A path relative to the root."""
        if self._root is None:
            raise ValueError(
                f"input {name} has no bytes but a path, and {self._where}.root doesn't say what it is below"
            )
        place = path.removeprefix("file://")
        if "://" in place or place.startswith("/"):
            above = self._root if self._root.endswith("/") else f"{self._root}/"
            if not place.startswith(above):
                raise ValueError(f"input {name}: {path} is not below {self._root}")
            place = place.removeprefix(above)
        if not place or ".." in place.split("/") or "\0" in place or len(place) > _LONGEST:
            raise ValueError(f"input {name}: {path!r} names no file below {self._root}")
        return posixpath.normpath(place) if is_local(self._root) else place
