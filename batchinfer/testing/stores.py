"""What every store must keep to, as a pytest class: subclass it, name it Test…, and give `store`. And a file system with faults."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from batchinfer.storage.store import Store

NAMES = (
    "a b.bin",
    "ä/ö ü.bin",
    "50%.bin",
    "%20.bin",
    "a+b.bin",
    "a&b=c.bin",
    "dt=2026-11-22/x.bin",
    "tilde~.bin",
    "a#b.bin",
    "日本語.bin",
)
"""Names that a store must not take for anything but themselves."""
RACERS = 16


class StoreContract:
    """The contract. `store` gives a fresh, empty store for each test; calling it again gives another client of the same one."""

    big = 20 * 2**20
    """Bytes of the large object."""
    rounds = 4
    """Races that are run."""
    turns = 30
    """Writes of each writer in a folder that others empty."""

    def store(self) -> Store:
        """A client of this test's store."""
        raise NotImplementedError

    def test_a_listing_is_sorted_by_path_and_says_sizes(self) -> None:
        store = self.store()
        for name in ("b", "a/z", "a/b/c", "a.x", "a0"):
            store.put(name, b"x" * len(name))
        entries = store.list()
        assert [e.path for e in entries] == ["a.x", "a/b/c", "a/z", "a0", "b"]
        assert [e.size for e in entries] == [3, 5, 3, 2, 1]

    def test_a_listing_of_a_folder_holds_what_is_below_it_and_nothing_beside_it(self) -> None:
        store = self.store()
        for name in ("a/1", "a/b/2", "ab/3", "a.4"):
            store.put(name, b"")
        assert [e.path for e in store.list("a")] == ["a/1", "a/b/2"]
        assert [e.path for e in store.list("a/b")] == ["a/b/2"]

    def test_a_listing_of_an_object_holds_that_object(self) -> None:
        store = self.store()
        store.put("a/one", b"123")
        assert [(e.path, e.size) for e in store.list("a/one")] == [("a/one", 3)]

    def test_a_folder_that_is_missing_lists_as_empty(self) -> None:
        store = self.store()
        assert store.list() == []
        assert store.list("nowhere/at/all") == []

    def test_another_client_sees_at_once_what_was_stored_and_deleted(self) -> None:
        one, other = self.store(), self.store()
        assert other.list("a") == []
        one.put("a/x", b"1")
        assert [e.path for e in other.list("a")] == ["a/x"]
        assert other.read("a/x") == b"1"
        one.delete("a/x")
        assert other.list("a") == []
        with pytest.raises(FileNotFoundError):
            other.read("a/x")

    def test_the_version_changes_with_the_content(self) -> None:
        store = self.store()
        store.put("x", b"1")
        before = store.list("x")[0]
        store.put("x", b"2")
        assert store.list("x")[0].version != before.version

    @pytest.mark.parametrize(
        ("start", "stop", "expected"),
        [
            (0, None, b"0123456789"),
            (0, 4, b"0123"),
            (3, 7, b"3456"),
            (8, None, b"89"),
            (8, 100, b"89"),
            (10, None, b""),
            (10, 20, b""),
            (99, None, b""),
            (99, 120, b""),
            (4, 4, b""),
            (0, 0, b""),
            (7, 3, b""),
        ],
    )
    def test_a_range_is_read_as_a_slice_is(self, start: int, stop: int | None, expected: bytes) -> None:
        store = self.store()
        store.put("x", b"0123456789")
        assert store.read("x", start, stop) == expected

    def test_an_empty_object_reads_as_empty_in_every_range(self) -> None:
        store = self.store()
        store.put("x", b"")
        assert [store.read("x"), store.read("x", 0, 8), store.read("x", 5)] == [b"", b"", b""]
        assert [e.size for e in store.list("x")] == [0]

    @pytest.mark.parametrize("path", ["x", "a/b/c", "file/below"])
    @pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 4), (5, None)])
    def test_reading_what_is_missing_says_so(self, path: str, start: int, stop: int | None) -> None:
        store = self.store()
        store.put("file", b"1")
        with pytest.raises(FileNotFoundError):
            store.read(path, start, stop)

    def test_put_replaces(self) -> None:
        store = self.store()
        store.put("a/x", b"long content")
        store.put("a/x", b"short")
        assert store.read("a/x") == b"short"
        assert [e.size for e in store.list("a")] == [5]

    def test_create_is_true_first_and_false_for_other_content(self) -> None:
        store = self.store()
        assert store.create("a/x", b"first") is True
        assert store.create("a/x", b"second") is False
        assert store.read("a/x") == b"first"

    def test_create_is_true_for_equal_bytes(self) -> None:
        store = self.store()
        assert store.create("x", b"same")
        assert store.create("x", b"same")
        assert self.store().create("x", b"same")

    def test_create_never_replaces_what_was_put(self) -> None:
        store = self.store()
        store.put("x", b"put")
        assert not store.create("x", b"created")
        assert store.read("x") == b"put"

    def test_create_with_no_bytes_is_as_exclusive(self) -> None:
        store = self.store()
        assert store.create("x", b"")
        assert not store.create("x", b"1")
        assert store.read("x") == b""
        store.put("y", b"1")
        assert not store.create("y", b"")
        assert store.read("y") == b"1"

    def test_a_deleted_name_can_be_created_again(self) -> None:
        store = self.store()
        assert store.create("x", b"1")
        store.delete("x")
        assert store.create("x", b"2")
        assert store.read("x") == b"2"

    def test_of_concurrent_creates_exactly_one_wins(self) -> None:
        for round_ in range(self.rounds):
            store, path = self.store(), f"race/{round_}"
            start = threading.Barrier(RACERS)

            def race(n: int, store: Store = store, path: str = path, start: threading.Barrier = start) -> bool:
                start.wait()
                return store.create(path, b"%02d" % n * 500)

            with ThreadPoolExecutor(RACERS) as pool:
                won = list(pool.map(race, range(RACERS)))
            assert won.count(True) == 1
            assert store.read(path) == b"%02d" % won.index(True) * 500

    def test_delete_can_be_said_twice(self) -> None:
        store = self.store()
        store.put("a/x", b"1")
        store.put("a/y", b"1")
        store.delete("a/x")
        store.delete("a/x")
        store.delete("never/was")
        store.delete("a/y/below")
        assert [e.path for e in store.list()] == ["a/y"]

    @pytest.mark.parametrize("name", NAMES)
    def test_a_name_means_itself(self, name: str) -> None:
        store = self.store()
        store.put(f"n/{name}", b"put")
        assert store.read(f"n/{name}") == b"put"
        assert store.read(f"n/{name}", 1, 2) == b"u"
        assert [e.path for e in store.list("n")] == [f"n/{name}"]
        assert [e.path for e in store.list(f"n/{name}")] == [f"n/{name}"]
        assert not store.create(f"n/{name}", b"other")
        store.delete(f"n/{name}")
        assert store.list("n") == []
        assert store.create(f"n/{name}", b"created")

    def test_a_big_object_comes_back_whole(self) -> None:
        store = self.store()
        data = bytes(range(256)) * (self.big // 256)
        store.put("big", data)
        assert store.create("big", data)
        assert store.read("big") == data
        middle = self.big // 2
        assert store.read("big", middle, middle + 1000) == data[middle : middle + 1000]

    def test_writers_of_a_folder_that_others_empty_are_not_disturbed(self) -> None:
        store = self.store()

        def write(n: int) -> None:
            for i in range(self.turns):
                assert store.create(f"f/g/{n}-{i}", b"1")
                store.put(f"f/g/{n}-{i}", b"2")
                store.delete(f"f/g/{n}-{i}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert store.list() == []


class FaultyFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system in memory of its own whose operations fail as a test scripts it.

    `fault(verb, n)` is asked before each `cat_file`, `pipe_file`, `rm_file`, `find` with its count from 0: what it returns is raised.
    """

    cachable = False

    def __init__(self, fault: Callable[[str, int], BaseException | None] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.store: dict[str, Any] = {}
        self.pseudo_dirs = [""]
        self.fault = fault or (lambda _verb, _n: None)
        self.calls: Counter[str] = Counter()
        self.loses_answers: BaseException | None = None
        """Raised by every `pipe_file` that has stored its bytes."""
        self.ignores_conditions = False
        """Whether `mode="create"` replaces, as it does on services that don't know If-None-Match."""
        self._lock = threading.Lock()

    def _asked(self, verb: str) -> None:
        n = self.calls[verb]
        self.calls[verb] += 1
        error = self.fault(verb, n)
        if error is not None:
            raise error

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Store, conditionally where asked for."""
        self._asked("pipe_file")
        with self._lock:
            super().pipe_file(path, value, mode="overwrite" if self.ignores_conditions else mode, **kwargs)
        if self.loses_answers is not None:
            raise self.loses_answers

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Read."""
        self._asked("cat_file")
        return bytes(super().cat_file(path, start=start, end=end, **kwargs))

    def rm_file(self, path: str) -> None:
        """Delete."""
        self._asked("rm_file")
        self._rm(path)

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any) -> Any:
        """List."""
        self._asked("find")
        return super().find(path, maxdepth=maxdepth, withdirs=withdirs, **kwargs)


def fresh_name() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex
