"""The store contract on every store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from batchinfer.errors import AccessError, OutputError
from batchinfer.storage.remote import FsspecStore
from batchinfer.storage.store import Store, open_store
from batchinfer.testing.stores import FaultyFileSystem, StoreContract, fresh_name


class TestLocalStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "not made yet"

    def store(self) -> Store:
        return open_store(str(self.folder))


class TestLocalStoreWithScratch(StoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path / "out"
        yield
        assert [p for p in self.folder.rglob("*") if p.name.endswith(".tmp")] == []

    def store(self) -> Store:
        return open_store(f"file://{self.folder}", scratch="_state/tmp")


class TestMemoryStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _root(self) -> Iterator[None]:
        self.root = f"memory://{fresh_name()}/out"
        yield
        store = open_store(self.root)
        for entry in store.list():
            store.delete(entry.path)

    def store(self) -> Store:
        return open_store(self.root)


class TestFaultlessStore(StoreContract):
    """The file system of the fault tests is sound when nothing is scripted."""

    @pytest.fixture(autouse=True)
    def _fs(self) -> None:
        self.fs = FaultyFileSystem()

    def store(self) -> Store:
        return FsspecStore("memory://out", self.fs)


OPTIONS = {"key": "testing", "secret": "testing", "client_kwargs": {"region_name": "us-east-1"}}


@pytest.fixture(scope="module")
def clients(s3_server: str) -> list[Any]:
    options = {"endpoint_url": s3_server, "use_listings_cache": False, "skip_instance_cache": True, **OPTIONS}
    return [fsspec.filesystem("s3", **options) for _ in range(2)]


class TestS3Store(StoreContract):
    rounds = 1
    turns = 3

    @pytest.fixture(autouse=True)
    def _clients(self, clients: list[Any]) -> None:
        self.root = f"s3://lake/{fresh_name()}/out"
        self.clients = itertools.cycle(clients)

    def store(self) -> Store:
        return FsspecStore(self.root, next(self.clients))


def test_a_bucket_is_opened_with_the_options_of_its_longest_prefix(s3_server: str) -> None:
    options = {"s3://": {"endpoint_url": "http://127.0.0.1:1"}, "s3://lake/": {"endpoint_url": s3_server, **OPTIONS}}
    store = open_store(f"s3://lake/{fresh_name()}/", options)
    assert store.create("x", b"1")
    assert [e.path for e in store.list()] == ["x"]


def test_a_bucket_that_is_not_there_is_refused_by_name(clients: list[Any]) -> None:
    store = FsspecStore("s3://no-such-bucket/out", clients[0])
    assert store.list() == []
    for verb in (store.put, store.create):
        with pytest.raises(OutputError, match="s3://no-such-bucket/out: there is no such bucket"):
            verb("x", b"1")


def test_missing_credentials_are_refused_at_once(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    store = open_store("s3://lake/out", {"s3://": {"endpoint_url": s3_server, "anon": False}})
    with pytest.raises(AccessError, match="credentials"):
        store.create("x", b"1")
