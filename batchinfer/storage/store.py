"""The store below a path or URL, whatever keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from batchinfer.errors import MissingExtraError, RefusedError
from batchinfer.storage.protocol import Entry, Store

__all__ = ["Entry", "StorageOptions", "Store", "is_local", "open_store", "options_for"]

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
        RefusedError: the protocol isn't one that batchinfer uses, or the URL has a password in it.
        MissingExtraError: the protocol's fsspec package isn't installed.

    """
    if is_local(root):
        from batchinfer.storage.local import LocalStore

        return LocalStore(root.removeprefix("file://"), scratch=scratch)
    protocol = urlsplit(root).scheme
    if urlsplit(root).password:
        raise RefusedError(
            f"{protocol}://…: the URL has a password in it, and URLs are recorded and shown: give credentials by the environment, "
            "or under storage in the job file"
        )
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
