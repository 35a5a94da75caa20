"""Bytes that a machine keeps for other jobs: of remote objects, and of what was made of input columns.

A file holds them after their SHA-256, and is named by what they are: of an object, a span of one version. One that is torn or altered is as
good as none. What was used least recently goes first.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import threading
from pathlib import Path

from batchinfer.storage.store import Entry, Store

log = logging.getLogger(__name__)

_DIGEST_BYTES = 32
_LOOKS = 20
"""The folder is looked through each time that a process has written this part of its bound: others write there too."""


class KeptBytes:
    """A folder that several processes may use at once. Where it can't be used, it keeps nothing, and says so once.

    Args:
        folder: made when it is needed.
        max_bytes: of its files together.

    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._most = folder, max_bytes
        self._written: int | None = None
        """Since the folder was looked through; None before."""
        self._lock = threading.Lock()
        self._failed = False

    def __reduce__(self) -> tuple[type[KeptBytes], tuple[Path, int]]:
        return type(self), (self._folder, self._most)

    def find(self, key: str) -> bytes | None:
        """What was kept under a key; None where there is nothing, or not all of it."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        found = data[_DIGEST_BYTES:]
        return found if hashlib.sha256(found).digest() == data[:_DIGEST_BYTES] else None

    def keep(self, key: str, data: bytes) -> None:
        """Keep bytes under a key, and the folder within its bound."""
        if self._failed or len(data) + _DIGEST_BYTES > self._most:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(data).digest())
                    file.write(data)
                Path(name).replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
            self._bound(len(data) + _DIGEST_BYTES)
        except OSError as error:
            self._failed = True
            log.warning("%s: nothing is kept on this machine from here on: %s", self._folder, error)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _bound(self, written: int) -> None:
        with self._lock:
            if self._written is not None and self._written + written < self._most // _LOOKS:
                self._written += written
                return
            self._written = 0
            files = []
            for path in self._folder.glob("*/*"):
                with contextlib.suppress(FileNotFoundError):  # another process may have removed it
                    told = path.stat()
                    files.append((told.st_mtime_ns, told.st_size, path))
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self._most - self._most // _LOOKS:
                    return
                path.unlink(missing_ok=True)
                total -= size


class KeepingStore:
    """One version of an object in a store, as a store whose reads are kept."""

    def __init__(self, store: Store, kept: KeptBytes, version: str) -> None:
        self.root = store.root
        self.store, self.kept, self.version = store, kept, version

    def list(self, prefix: str = "") -> list[Entry]:
        """See Store."""
        return self.store.list(prefix)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store."""
        told = "\0".join((self.root, path, self.version, str(start), str(stop)))
        key = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
        if (found := self.kept.find(key)) is not None:
            return found
        data = self.store.read(path, start, stop)
        # The object may have been replaced since it was listed: then these bytes are of another version.
        if any(e.path == path and e.version == self.version for e in self.store.list(path)):
            self.kept.keep(key, data)
        return data

    def put(self, path: str, data: bytes) -> None:
        """See Store."""
        self.store.put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """See Store."""
        return self.store.create(path, data)

    def delete(self, path: str) -> None:
        """See Store."""
        self.store.delete(path)
