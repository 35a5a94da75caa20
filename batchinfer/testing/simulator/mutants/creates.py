"""Wrong ways of creating an object where none of its name may be replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

from batchinfer.storage import paths
from batchinfer.storage.remote import FsspecStore
from batchinfer.testing.simulator.mutants.registry import mutant


@contextlib.contextmanager
def _creating(attempt: Callable[[FsspecStore, str, bytes], bool]) -> Iterator[None]:
    """Another `create` of the store; the probe at the start gets the right one, as a store that fails it is refused."""
    right = FsspecStore.create

    def create(self: FsspecStore, path: str, data: bytes) -> bool:
        if path.startswith(paths.PROBES):
            return right(self, path, data)
        return self._call("create", path, lambda: attempt(self, path, data))

    with mock.patch.object(FsspecStore, "create", create):
        yield


@mutant
def no_conditional_create() -> Iterator[None]:
    """Creating replaces what stands there."""

    def attempt(self: FsspecStore, path: str, data: bytes) -> bool:
        self._fs.pipe_file(self._full(path), data)
        return True

    with _creating(attempt):
        yield


@mutant
def no_read_back_after_a_lost_create() -> Iterator[None]:
    """Whatever says that the name exists is another's."""

    def attempt(self: FsspecStore, path: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self._full(path), data, mode="create")
        except FileExistsError:
            return False
        return True

    with _creating(attempt):
        yield


@mutant
def what_exists_is_ours() -> Iterator[None]:
    """A create that finds the name taken counts as our own, whose answer was lost."""

    def attempt(self: FsspecStore, path: str, data: bytes) -> bool:
        with contextlib.suppress(FileExistsError):
            self._fs.pipe_file(self._full(path), data, mode="create")
        return True

    with _creating(attempt):
        yield


@mutant
def an_unknown_outcome_is_cleaned_up() -> Iterator[None]:
    """A create that failed is undone, so that it can be tried afresh."""

    def attempt(self: FsspecStore, path: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self._full(path), data, mode="create")
        except FileExistsError:
            return bool(self._fs.cat_file(self._full(path)) == data)
        except OSError:
            self.delete(path)
            raise
        return True

    with _creating(attempt):
        yield
