"""Faults of a remote store, by a file system that fails as scripted."""

from __future__ import annotations

import logging

import botocore.exceptions
import pytest

from batchinfer.errors import AccessError, OutputError, RefusedError, StorageError
from batchinfer.ledger import jobs
from batchinfer.storage.remote import FsspecStore
from batchinfer.storage.store import open_store
from batchinfer.testing.stores import FaultyFileSystem

PASSING = [
    OSError(16, "SlowDown"),
    TimeoutError("read timed out"),
    ConnectionResetError("reset by peer"),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://store"),
]


def store_of(fs: FaultyFileSystem, seconds: float = 20.0) -> FsspecStore:
    return FsspecStore("memory://out", fs, retry_seconds=seconds)


def first_fails(error: BaseException, times: int = 1) -> FaultyFileSystem:
    return FaultyFileSystem(lambda _verb, n: error if n < times else None)


@pytest.mark.parametrize("error", PASSING, ids=lambda e: type(e).__name__)
def test_a_passing_fault_of_any_verb_is_retried(error: BaseException) -> None:
    fs = first_fails(error)
    store = store_of(fs)
    store.put("a/x", b"12")
    assert store.read("a/x") == b"12"
    assert [e.path for e in store.list()] == ["a/x"]
    store.delete("a/x")
    assert fs.calls == {"pipe_file": 2, "cat_file": 2, "find": 2, "rm_file": 2}


def test_a_create_is_retried_until_it_is_stored() -> None:
    fs = FaultyFileSystem(lambda verb, n: OSError(16, "SlowDown") if verb == "pipe_file" and n < 2 else None)
    assert store_of(fs).create("x", b"1")
    assert store_of(fs).read("x") == b"1"


@pytest.mark.parametrize("lost", [FileExistsError("412"), ConnectionResetError("reset"), OSError(22, "EINVAL")])
def test_a_create_whose_answer_was_lost_knows_its_own_bytes(lost: OSError) -> None:
    fs = FaultyFileSystem()
    fs.loses_answers = lost
    store = store_of(fs)
    assert store.create("x", b"mine")
    assert not store.create("x", b"other")
    assert store.read("x") == b"mine"


def test_a_lost_answer_is_read_back_even_when_reading_fails_at_first() -> None:
    fs = FaultyFileSystem(lambda verb, n: ConnectionResetError() if verb == "cat_file" and n == 0 else None)
    fs.loses_answers = ConnectionResetError("reset")
    assert store_of(fs).create("x", b"mine")


def test_a_conflict_with_an_object_that_is_gone_is_tried_again() -> None:
    fs = FaultyFileSystem(lambda verb, n: FileExistsError("412") if verb == "pipe_file" and n == 0 else None)
    assert store_of(fs).create("x", b"mine")


def test_a_store_that_ignores_conditions_is_refused_by_the_probe() -> None:
    fs = FaultyFileSystem()
    fs.ignores_conditions = True
    store = store_of(fs)
    with pytest.raises(OutputError, match="memory://out: this store ignores conditional creates"):
        jobs.probe(store)
    assert store.list() == []


def test_a_store_that_keeps_conditions_passes_the_probe_and_keeps_nothing_of_it() -> None:
    fs = FaultyFileSystem()
    jobs.probe(store_of(fs))
    fs.loses_answers = FileExistsError("412")
    jobs.probe(store_of(fs))
    assert store_of(fs).list() == []


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "AccessDenied"),
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.PartialCredentialsError(provider="env", cred_var="secret"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_credentials_are_refused_at_once(error: BaseException) -> None:
    fs = FaultyFileSystem(lambda _verb, _n: error)
    store = store_of(fs)
    for call in (
        lambda: store.put("x", b""),
        lambda: store.create("x", b""),
        lambda: store.read("x"),
        lambda: store.delete("x"),
        lambda: store.list(),
    ):
        with pytest.raises(AccessError, match="credentials"):
            call()
    assert set(fs.calls.values()) <= {1, 2}  # a create of unknown outcome is read back


def test_a_fault_that_stays_is_the_stores_and_says_how_to_go_on(caplog: pytest.LogCaptureFixture) -> None:
    fs = FaultyFileSystem(lambda _verb, _n: ConnectionRefusedError("refused"))
    store = store_of(fs, seconds=0.05)
    with caplog.at_level(logging.WARNING), pytest.raises(StorageError, match="run the same command again") as gone:
        store.read("x")
    assert str(gone.value).startswith("memory://out/x: could not read it: ConnectionRefusedError")
    assert gone.value.exit_code == 75
    assert fs.calls["cat_file"] >= 2
    with pytest.raises(StorageError):
        store.create("x", b"")


def test_a_store_that_was_waited_for_in_vain_is_not_waited_for_again_until_it_answers() -> None:
    """A run that ends asks it several times more."""
    away = True
    fs = FaultyFileSystem(lambda verb, n: ConnectionRefusedError() if away or (verb == "cat_file" and n == 3) else None)
    store = store_of(fs, seconds=0.05)
    with pytest.raises(StorageError):
        store.put("x", b"1")
    for _ in range(2):
        with pytest.raises(StorageError):
            store.read("x")
    assert fs.calls["cat_file"] == 2
    away = False
    store.put("x", b"1")
    assert store.read("x") == b"1"
    assert store.read("x") == b"1"  # the fourth reading fails, and is made again
    assert fs.calls["cat_file"] == 5


def test_an_error_of_the_program_is_neither_retried_nor_hidden() -> None:
    fs = FaultyFileSystem(lambda _verb, _n: ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        store_of(fs).read("x")
    assert fs.calls["cat_file"] == 1


def test_what_is_missing_is_not_retried() -> None:
    fs = FaultyFileSystem()
    with pytest.raises(FileNotFoundError):
        store_of(fs).read("x")
    assert fs.calls["cat_file"] == 1


@pytest.mark.parametrize(
    "url", ["http://host/x", "ssh://host/x", "simplecache::s3://lake/x", "reference://x", "hf://x"]
)
def test_a_protocol_that_is_not_of_a_store_is_refused(url: str) -> None:
    with pytest.raises(RefusedError, match="isn't supported"):
        open_store(url)
