"""Creates on a store that has no conditional ones: safe only where nobody else writes at the same time."""

from __future__ import annotations

import builtins

from batchinfer.storage.protocol import Entry, Store


class SingleWriterStore:
    """A store whose `create` looks first and then puts. See Store.

    Between the look and the put another writer could come and be overwritten: whoever uses this has said that there is none.
    """

    def __init__(self, store: Store) -> None:
        self.root = store.root
        self._store = store

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """See Store.list."""
        return self._store.list(prefix)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store.read."""
        return self._store.read(path, start, stop)

    def put(self, path: str, data: bytes) -> None:
        """See Store.put."""
        self._store.put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """See Store.create, and the class."""
        try:
            return self._store.read(path) == data
        except FileNotFoundError:
            self._store.put(path, data)
        return self._store.read(path) == data

    def delete(self, path: str) -> None:
        """See Store.delete."""
        self._store.delete(path)
