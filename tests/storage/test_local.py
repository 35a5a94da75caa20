"""What holds on a local disk alone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from batchinfer.errors import AccessError, BatchinferError, OutputError, StorageError
from batchinfer.storage.local import LocalStore


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("scratch", [None, "tmp"])
def test_nothing_but_the_objects_is_left_behind(tmp_path: Path, scratch: str | None) -> None:
    store = LocalStore(str(tmp_path), scratch=scratch)
    store.put("a/x", b"1")
    store.put("a/x", b"2")
    store.create("a/y", b"1")
    store.create("a/y", b"2")
    assert files(tmp_path) == ["a/x", "a/y"]


@pytest.mark.parametrize("scratch", [None, "tmp"])
def test_a_reader_never_sees_a_part_of_an_object(tmp_path: Path, scratch: str | None) -> None:
    store = LocalStore(str(tmp_path), scratch=scratch)
    whole = [bytes([n]) * 300_000 for n in range(2)]
    store.put("x", whole[0])
    done = threading.Event()

    def write() -> None:
        for n in range(60):
            store.put("x", whole[n % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not done.is_set():
        assert store.read("x") in whole
        assert [e.size for e in store.list("x")] == [300_000]
        seen += 1
    writer.join()
    assert seen


def test_a_created_object_is_whole_from_the_first_moment(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    data = b"x" * 2_000_000

    def create() -> None:
        for n in range(20):
            store.create(f"{n}", data)

    writer = threading.Thread(target=create)
    writer.start()
    for n in range(20):
        while True:
            try:
                assert store.read(f"{n}") == data
            except FileNotFoundError:
                continue
            break
    writer.join()


_LIMITED = """
import resource, signal, sys
from batchinfer.errors import StorageError
from batchinfer.storage.local import LocalStore
store = LocalStore(sys.argv[1])
store.put("x", b"before")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for verb, name in ((store.put, "x"), (store.create, "y")):
    try:
        verb(name, b"1" * 1_000_000)
    except StorageError as e:
        print(e)
"""


def test_a_write_that_the_system_cuts_off_publishes_nothing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == f"{tmp_path}/x: File too large\n{tmp_path}/y: File too large\n"
    assert files(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"before"


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, StorageError, "the disk is full: free space"),
        (errno.EDQUOT, StorageError, "the quota is used up"),
        (errno.EROFS, AccessError, "the file system is read-only"),
        (errno.EIO, StorageError, "input/output error"),
        (errno.EACCES, AccessError, "check owner and mode"),
        (errno.ETIMEDOUT, StorageError, os.strerror(errno.ETIMEDOUT)),
    ],
)
def test_what_the_system_refuses_is_said_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[BatchinferError], words: str
) -> None:
    def refuse(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    store = LocalStore(str(tmp_path))
    store.put("a/x", b"before")
    monkeypatch.setattr(os, "fsync", refuse)
    for verb in (store.put, store.create):
        with pytest.raises(kind, match=words) as refusal:
            verb("a/x", b"1")
        assert str(refusal.value).startswith(f"{tmp_path}/a/x: ")
    assert files(tmp_path) == ["a/x"]
    assert store.read("a/x") == b"before"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_refused_and_not_taken_for_one_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OutputError, match="has no hard links"):
        LocalStore(str(tmp_path)).create("x", b"1")
    assert files(tmp_path) == []


def test_a_name_is_synced_even_where_another_writer_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one may have died before it synced; what is built on its object must not outlive it."""
    store = LocalStore(str(tmp_path))
    store.create("a/x", b"1")
    synced, fsync = [], os.fsync

    def note(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    store.create("a/x", b"2")
    assert str(tmp_path / "a") in synced


def test_new_folders_are_synced_into_those_above_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def note(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    LocalStore(str(tmp_path)).create("a/b/x", b"1")
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/b")} <= set(synced)


def test_an_output_that_is_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    store = LocalStore(str(tmp_path / "file"))
    for verb in (store.put, store.create):
        with pytest.raises(StorageError, match="Not a directory"):
            verb("a/x", b"1")
    assert store.list("a") == []


def test_links_are_followed_unless_they_lead_back_and_those_to_nothing_are_listed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x").write_bytes(b"12")
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "real/up").symlink_to("..")
    (tmp_path / "broken").symlink_to("nothing")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "y").symlink_to("real/x")
    entries = LocalStore(str(tmp_path)).list()
    assert [(e.path, e.size) for e in entries if "up" not in e.path] == [
        ("broken", 0),
        ("itself", 0),
        ("linked/x", 2),
        ("real/x", 2),
        ("y", 2),
    ]


def test_folders_that_deleting_empties_are_removed_and_the_root_stays(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put("a/b/x", b"1")
    store.put("a/y", b"1")
    store.delete("a/b/x")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "y"]
    store.delete("a/y")
    assert tmp_path.is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["put", "create"])
def test_a_folder_that_vanishes_before_the_name_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Another runner that deletes the last file of a folder removes the folder, at any moment."""
    store = LocalStore(str(tmp_path), scratch="tmp")
    fsync: Callable[[int], None] = os.fsync
    taken = []

    def take_away(fd: int) -> None:
        fsync(fd)
        if not taken and "tmp/" in os.readlink(f"/proc/self/fd/{fd}"):
            (tmp_path / "a").rmdir()
            taken.append(fd)

    monkeypatch.setattr(os, "fsync", take_away)
    getattr(store, verb)("a/x", b"1")
    assert taken
    assert store.read("a/x") == b"1"


@pytest.mark.parametrize("name", ["folder", ".", "file/x", "x" * 300, "loop"])
def test_what_can_be_no_object_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileNotFoundError):
        LocalStore(str(tmp_path)).read(name)
