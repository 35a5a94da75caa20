"""A model behind a URL: what is stored there now, and bringing it here."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Protocol

from batchinfer.data.volumes import Volumes, absolute
from batchinfer.errors import ModelError
from batchinfer.storage.store import Entry, StorageOptions

_PIECE = 16 << 20
"""Bytes that are asked for at once; so many times `_THREADS` are in memory at most."""
_THREADS = 8


class Remote(Protocol):
    """A model that lies elsewhere."""

    address: str
    """Where it is, told in the one way that means the same model tomorrow, as far as its store has one."""

    def version(self) -> str:
        """Digest of what its store says of it without giving its bytes; another one where the model may have changed."""

    def download(self, place: Path) -> None:
        """Write its file or folder to `place`, which isn't there yet. Raises ModelError where it isn't whole."""


class StoredModel:
    """A file or a folder on a store.

    Args:
        url: of one of the two.
        storage: fsspec options by URL prefix.

    """

    def __init__(self, url: str, storage: StorageOptions) -> None:
        self.address = absolute(url)
        self._store, self._path = Volumes(storage).locate(self.address)
        self._entries: list[Entry] = []

    def version(self) -> str:
        """See Remote. By names, sizes, and etags or generations. Raises ModelError where nothing is stored there."""
        found = self._store.list(self._path)
        above = {str(folder) for entry in found for folder in PurePosixPath(entry.path).parents}
        self._entries = [entry for entry in found if entry.path not in above]  # some tools store an object for a folder
        if not self._entries:
            raise ModelError(f"nothing is stored at {self.address}: check bucket, path and endpoint")
        listing = [[entry.path, entry.size, entry.version] for entry in self._entries]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    def download(self, place: Path) -> None:
        """See Remote; of what `version` saw."""
        pieces: list[tuple[Entry, Path, int]] = []
        for entry in self._entries:
            target = self._target(entry, place)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch(exist_ok=False)
            pieces += [(entry, target, start) for start in range(0, entry.size, _PIECE)]
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="batchinfer-fetch")
        try:
            for written in [pool.submit(self._write, *piece) for piece in pieces]:
                written.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _target(self, entry: Entry, place: Path) -> Path:
        """Where an object goes. Raises ModelError for one whose name leads elsewhere: listings are not to be trusted."""
        below = entry.path[len(self._path) :].strip("/")
        names = below.split("/") if below else []
        if any(name in ("", ".", "..") or "\0" in name for name in names):
            raise ModelError(f"{self.address} holds an object {below!r}, which can be no file: take it away")
        return place.joinpath(*names)

    def _write(self, entry: Entry, target: Path, start: int) -> None:
        stop = min(entry.size, start + _PIECE)
        try:
            data = self._store.read(entry.path, start, stop)
        except FileNotFoundError as error:
            raise ModelError(
                f"{self.address} lost {entry.path} while it was fetched: run again once it is written"
            ) from error
        if len(data) != stop - start:
            raise ModelError(
                f"{entry.path} of {self.address} became shorter while it was fetched: run again once it is written"
            )
        with target.open("r+b") as file:
            file.seek(start)
            file.write(data)
