"""Bytes that a machine keeps of remote objects: what is found again, what damage costs, and the bound."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from batchinfer.storage.kept_bytes import KeepingStore, KeptBytes
from batchinfer.storage.store import Store, open_store


class Counting:
    """A store that notes what is read of it."""

    def __init__(self, store: Store) -> None:
        self._store, self.reads = store, []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        self.reads.append((path, start, stop))
        return self._store.read(path, start, stop)


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    made = open_store(f"memory://kept-{tmp_path.name}")
    made.put("a", b"0123456789")
    return Counting(made)


def of(store: Counting, folder: Path, most: int = 1 << 20) -> KeepingStore:
    (entry,) = store.list("a")
    return KeepingStore(store, KeptBytes(folder, most), entry.version)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*"))


def test_a_span_is_fetched_once_and_others_are_others(store: Counting, tmp_path: Path) -> None:
    for _ in range(2):
        mine = of(store, tmp_path / "kept")
        assert mine.read("a", 2, 5) == b"234"
        assert mine.read("a", 2, 6) == b"2345"
        assert mine.read("a") == b"0123456789"
    assert store.reads == [("a", 2, 5), ("a", 2, 6), ("a", 0, None)]


def test_another_version_is_fetched_anew(store: Counting, tmp_path: Path) -> None:
    assert of(store, tmp_path / "kept").read("a", 0, 3) == b"012"
    store.put("a", b"abcdefghij")
    assert of(store, tmp_path / "kept").read("a", 0, 3) == b"abc"


def test_what_was_replaced_while_it_was_read_is_not_kept(store: Counting, tmp_path: Path) -> None:
    mine = of(store, tmp_path / "kept")
    store.put("a", b"abcdefghij")
    assert mine.read("a", 0, 3) == b"abc"
    assert files(tmp_path / "kept") == []


@pytest.mark.parametrize("how", ["cut", "empty", "changed", "gone"])
def test_a_damaged_file_is_fetched_again(store: Counting, tmp_path: Path, how: str) -> None:
    of(store, tmp_path / "kept").read("a", 0, 9)
    (path,) = files(tmp_path / "kept")
    data = path.read_bytes()
    made = {"cut": data[:-1], "empty": b"", "changed": data[:-1] + bytes([data[-1] ^ 1])}
    path.unlink() if how == "gone" else path.write_bytes(made[how])
    for _ in range(2):
        assert of(store, tmp_path / "kept").read("a", 0, 9) == b"012345678"
    assert len(store.reads) == 2


def test_the_bound_is_kept_and_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    kept = KeptBytes(tmp_path, 1000)
    for n in range(40):
        kept.keep(f"{n:064x}", bytes(68))
        if n >= 3:  # used again and again
            assert kept.find(f"{3:064x}") == bytes(68)
        for path in files(tmp_path):  # file systems tell times in coarse steps
            told = path.stat()
            os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns - 1_000_000_000 * (path.name != f"{3:064x}")))
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 1000
    assert len(files(tmp_path)) >= 8
    assert kept.find(f"{3:064x}") == bytes(68)
    assert kept.find(f"{0:064x}") is None
    kept.keep("ff" * 32, bytes(2000))
    assert kept.find("ff" * 32) is None


def test_several_may_write_at_once(tmp_path: Path) -> None:
    def work() -> None:
        mine = KeptBytes(tmp_path, 5000)
        for n in range(200):
            mine.keep(f"{n % 50:064x}", bytes([n % 50]) * 100)
            found = mine.find(f"{n % 50:064x}")
            assert found in (None, bytes([n % 50]) * 100)

    failed: list[BaseException] = []
    threads = [threading.Thread(target=work) for _ in range(6)]
    hook, threading.excepthook = threading.excepthook, lambda told: failed.append(told.exc_value or RuntimeError())
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = hook
    assert failed == []
    assert not [path for path in files(tmp_path) if path.name.startswith(".")]


def test_where_nothing_can_be_kept_it_is_said_once(
    store: Counting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").write_text("no folder")
    mine = of(store, tmp_path / "kept")
    for _ in range(3):
        assert mine.read("a", 0, 3) == b"012"
    assert sum("nothing is kept on this machine" in record.message for record in caplog.records) == 1
