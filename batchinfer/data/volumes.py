"""From the URL of one object to the store that holds it, opened once for all objects of a bucket or disk."""

from __future__ import annotations

import os
import threading

from batchinfer.storage.kept_bytes import KeepingStore, KeptBytes
from batchinfer.storage.local import LocalStore
from batchinfer.storage.store import StorageOptions, Store, is_local, open_store


class Volumes:
    """Opens few stores for many paths: one for the local disk, one for a bucket and set of options. Safe to use from threads.

    Args:
        options: fsspec options by URL prefix.
        kept: where bytes of remote files are kept; None: they are fetched each time.

    """

    def __init__(self, options: StorageOptions | None = None, kept: KeptBytes | None = None) -> None:
        self._options, self._kept = options or {}, kept
        self._stores: dict[str, Store] = {}
        self._lock = threading.Lock()

    def locate(self, url: str) -> tuple[Store, str]:
        """The store of `url` and the path inside it. Raises RefusedError or MissingExtraError for a protocol that can't be used."""
        root = self._root(url)
        with self._lock:
            store = self._stores.get(root)
            if store is None:
                store = self._stores[root] = open_store(root, self._options)
        return store, url[len(root) :].strip("/")

    def kept(self, store: Store, version: str) -> Store:
        """The store for the reads of one version of an object that it holds."""
        if self._kept is None or isinstance(store, LocalStore) or not version:
            return store
        return KeepingStore(store, self._kept, version)

    def _root(self, url: str) -> str:
        """The shortest folder of `url` at which open_store picks the options that are meant for `url`."""
        if is_local(url):
            return "/"
        start = url.index("://") + 3
        prefix = max((p for p in self._options if url.startswith(f"{p.rstrip('/')}/")), key=len, default="")
        end = url.find("/", max(start + 1, len(prefix.rstrip("/"))))
        return url if end < 0 else url[: end + 1] if prefix == url[: end + 1] else url[:end]


def absolute(path: str) -> str:
    """A local path made absolute and plain; a URL without doubled or trailing slashes."""
    if is_local(path):
        return os.path.abspath(path.removeprefix("file://"))  # noqa: PTH100 - Path.absolute keeps `..`
    scheme, _, rest = path.partition("://")
    lead = "/" if rest.startswith("/") else ""
    return f"{scheme}://{lead}{'/'.join(s for s in rest.split('/') if s)}"
