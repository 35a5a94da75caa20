"""Servers of these tests' own, the undisturbed run that others are compared with, and a note of what happened."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.chaos.place import CREDENTIALS, Place, Reference, source_table, undisturbed
from tests.chaos.proxy import Proxy
from tests.chaos.table import Trial


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `repetition` runs once, and as often as --repeat says in the long run."""
    if "repetition" in metafunc.fixturenames:
        long = metafunc.definition.get_closest_marker("chaos") is not None
        metafunc.parametrize("repetition", range(metafunc.config.getoption("--repeat", default=1) if long else 1))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Differs from test to test and from repetition to repetition, the same whenever --seed is the same."""
    name = request.node.nodeid
    return random.Random(f"{request.config.getoption('--seed', default=0)} {name}").randrange(2**32)


@pytest.fixture
def dice(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def place(tmp_path: Path, source: str) -> Place:
    return Place(tmp_path, source)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("source")
    (folder / "a.parquet").write_bytes(source_table())
    return str(folder)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, source: str) -> Reference:
    return undisturbed(Place(tmp_path_factory.mktemp("undisturbed"), source))


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    s3 = boto3.client("s3", endpoint_url=url)
    s3.create_bucket(Bucket="lake")
    s3.put_object(Bucket="lake", Key="source/a.parquet", Body=source_table())
    yield url
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def proxy(moto: str, seed: int) -> Iterator[Proxy]:
    with Proxy(moto, seed) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def lake_reference(tmp_path_factory: pytest.TempPathFactory, moto: str) -> Reference:
    return undisturbed(on_lake(tmp_path_factory.mktemp("undisturbed"), moto))


@pytest.fixture
def lake(tmp_path: Path, proxy: Proxy) -> Place:
    """A job whose input and output lie behind the proxy."""
    return on_lake(tmp_path, proxy.url)


def on_lake(folder: Path, endpoint: str) -> Place:
    storage = {"s3://lake/": {"endpoint_url": endpoint}}
    return Place(folder, "s3://lake/source/", f"s3://lake/{folder.name}", storage)


@pytest.fixture
def note(request: pytest.FixtureRequest, seed: int) -> Any:
    """Compare a place with the undisturbed run, put a line into the table, and fail where the rows aren't all there once."""
    began = time.monotonic()

    def note(fault: str, place: Place, most_redo: float | None = None) -> None:
        reference = request.getfixturevalue("lake_reference" if "://" in place.source else "reference")
        found = place.compare(reference)
        trial = Trial(fault, seed, found, most_redo, time.monotonic() - began)
        request.node.user_properties.append(("trial", trial.to_json()))
        assert found.sound, (found, place.names())
        if most_redo is not None:
            assert found.redo <= most_redo, (found, most_redo)

    return note
