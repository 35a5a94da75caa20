"""The five verbs that everything durable goes through: list, read, put, create, delete.

`put` and `create` are atomic: a reader sees the whole object or none. `create` never replaces an object and answers with what
is stored, so that a lost acknowledgement or a second writer can't be mistaken for the other. The traps of fsspec that these
verbs avoid (partial objects published by a closing file, `exists` that swallows errors, listing caches, local creates that
race) are described in fsspec's own issues; nothing here uses `fs.open` for writing, `fs.exists`, `fs.mv` or transactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from batchinfer.errors import MissingExtraError, RefusedError

_EXTRAS = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
    "az": ("adlfs", "azure"),
    "abfs": ("adlfs", "azure"),
    "abfss": ("adlfs", "azure"),
}
_PROTOCOLS = {"file", "memory", *_EXTRAS}

StorageOptions = Mapping[str, Mapping[str, Any]]
"""fsspec options by URL prefix; the longest matching prefix counts."""


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


def is_local(url: str) -> bool:
    """Whether a path or URL names the local disk."""
    return "://" not in url or url.startswith("file://")


def options_for(url: str, options: StorageOptions) -> dict[str, Any]:
    """The fsspec options of the longest prefix that ends at a `/` of `url` or is all of it; those left empty are left out."""
    prefixes = [p for p in options if f"{url.rstrip('/')}/".startswith(f"{p.rstrip('/')}/")]
    chosen = options[max(prefixes, key=len)] if prefixes else {}
    return {key: value for key, value in chosen.items() if value not in ("", None)}


def open_store(root: str, options: StorageOptions | None = None, *, scratch: str | None = None) -> Store:
    """The store below `root`: a local path, or a URL that fsspec knows.

    Args:
        root: a local directory or a URL such as `s3://bucket/prefix`.
        options: fsspec options by URL prefix.
        scratch: folder below a local root for files in the making; by default beside their target.

    Raises:
        RefusedError: the protocol isn't one that batchinfer uses.
        MissingExtraError: the protocol's fsspec package isn't installed.

    """
    if is_local(root):
        from batchinfer.storage.local import LocalStore

        return LocalStore(root.removeprefix("file://"), scratch=scratch)
    protocol = urlsplit(root).scheme
    if protocol not in _PROTOCOLS or "::" in root:
        raise RefusedError(
            f"{root}: the protocol {protocol!r} isn't supported; use a local path or one of {', '.join(sorted(_PROTOCOLS))}"
        )
    import fsspec

    from batchinfer.storage.remote import FsspecStore

    settings = options_for(root, options or {})
    try:
        fs = fsspec.filesystem(protocol, **settings, use_listings_cache=False, skip_instance_cache=True)
    except ImportError:
        package, extra = _EXTRAS[protocol]
        raise MissingExtraError(package, extra, f"reading and writing {protocol}:// URLs") from None
    return FsspecStore(root.rstrip("/"), fs)
