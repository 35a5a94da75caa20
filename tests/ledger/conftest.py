"""A store in memory that notes what is done to it, and a job on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batchinfer.storage.paths import JobPaths
from batchinfer.storage.remote import FsspecStore
from batchinfer.storage.store import Entry
from batchinfer.testing.stores import FaultyFileSystem


class RecordingStore:
    """Notes each change as `verb path`; `before` is called ahead of every verb and may do what another runner would."""

    def __init__(self) -> None:
        self._store = FsspecStore("memory://out", FaultyFileSystem(), retry_seconds=1)
        self.root = self._store.root
        self.changes: list[str] = []
        self.before: Callable[[str, str], None] = lambda _verb, _path: None

    def list(self, prefix: str = "") -> list[Entry]:
        self.before("list", prefix)
        return self._store.list(prefix)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        self.before("read", path)
        return self._store.read(path, start, stop)

    def put(self, path: str, data: bytes) -> None:
        self.before("put", path)
        self.changes.append(f"put {path}")
        self._store.put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        self.before("create", path)
        self.changes.append(f"create {path}")
        return self._store.create(path, data)

    def delete(self, path: str) -> None:
        self.before("delete", path)
        self.changes.append(f"delete {path}")
        self._store.delete(path)

    @property
    def paths(self) -> list[str]:
        return [e.path for e in self._store.list()]


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


@pytest.fixture
def job() -> JobPaths:
    return JobPaths("0123abcd")
