"""The five verbs that everything durable goes through: list, read, put, create, delete.

`put` and `create` are atomic: a reader sees the whole object or none. `create` never replaces an object and answers with what
is stored, so that a lost acknowledgement or a second writer can't be mistaken for the other. The traps of fsspec that these
verbs avoid (partial objects published by a closing file, `exists` that swallows errors, listing caches, local creates that
race) are described in fsspec's own issues; nothing here uses `fs.open` for writing, `fs.exists`, `fs.mv` or transactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Entry:
    """One stored object."""

    path: str
    """Relative to the store's root, with `/`."""
    size: int
    """Bytes."""
    version: str
    """ETag or generation of an object, modification time in nanoseconds of a local file; changes when the content does."""


class Store(Protocol):
    """Objects below one root. Paths are relative to it.

    Every verb raises StorageError when the store stays away, is full or refuses for good, and AccessError when permission or
    credentials are the reason; passing faults are retried inside.
    """

    root: str

    def list(self, prefix: str = "") -> list[Entry]:
        """All objects below the folder `prefix` (or the object of that name), sorted by path; empty where there is none."""

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of an object from `start` to before `stop`. Raises FileNotFoundError where there is none."""

    def put(self, path: str, data: bytes) -> None:
        """Store an object, replacing one of that name."""

    def create(self, path: str, data: bytes) -> bool:
        """Store an object unless one of that name exists; True when what is stored now equals `data`.

        False means that another writer's object stands there. Two writers of equal bytes both get True: a caller that must know
        its own puts a nonce in.
        """

    def delete(self, path: str) -> None:
        """Remove an object; none of that name is no error."""
