"""A store whose errors repeat no credential."""

from __future__ import annotations

import builtins

from batchinfer.job.secrets import Secrets
from batchinfer.storage.store import Entry, Store


class HidingStore:
    """A store that takes these secrets out of whatever it raises. See Store."""

    def __init__(self, store: Store, secrets: Secrets) -> None:
        self.root = store.root
        self.secrets = secrets
        self._store = store

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """See Store.list."""
        with self.secrets.kept():
            return self._store.list(prefix)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store.read."""
        with self.secrets.kept():
            return self._store.read(path, start, stop)

    def put(self, path: str, data: bytes) -> None:
        """See Store.put."""
        with self.secrets.kept():
            self._store.put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """See Store.create."""
        with self.secrets.kept():
            return self._store.create(path, data)

    def delete(self, path: str) -> None:
        """See Store.delete."""
        with self.secrets.kept():
            self._store.delete(path)
