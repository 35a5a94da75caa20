"""Opening an output: for reading what stands there, and for a runner that writes to it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from batchinfer.api.hiding import HidingStore
from batchinfer.job.secrets import Secrets
from batchinfer.run.surroundings import USUAL, Surroundings
from batchinfer.storage import paths
from batchinfer.storage.store import StorageOptions, Store, is_local, open_store


def open_output(path: str, storage: StorageOptions, scratch: str | None = paths.SCRATCH) -> HidingStore:
    """The store of an output: a URL, or a local path, which may be relative or begin with `~`. Its errors repeat no credential."""
    path = root(path)
    secrets = Secrets.of_storage(storage) | Secrets.of_environment(os.environ)
    with secrets.kept():
        return HidingStore(open_store(path, storage, scratch=scratch), secrets)


def root(path: str) -> str:
    """An output's path as its store names it: a local one absolute."""
    return str(Path(path.removeprefix("file://")).expanduser().absolute()) if is_local(path) else path


def writing_to(store: Store) -> Surroundings:
    """Surroundings of a runner that shares this store with the record of its end: a store that is away is waited for once."""
    return replace(USUAL, open_store=lambda _spec: store)
