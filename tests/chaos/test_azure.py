"""A whole job on Azure's own emulator, Azurite, which is installed for the session: needs Node, so it runs by `nox -s services`."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from batchinfer.storage.store import Store, open_store
from batchinfer.testing.stores import StoreContract, fresh_name
from tests.chaos.place import Place, one_kill, source_table, undisturbed, wait_for

pytestmark = pytest.mark.services
AZURITE = "azurite@3.35.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's account, the same for everybody."""


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("azurite")
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), AZURITE],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=300,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(folder / "node_modules/.bin/azurite-blob"), "--silent", "--location", str(folder / "data")]
    server = subprocess.Popen(
        [*command, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--skipApiVersionCheck"], cwd=folder
    )
    try:
        listening(port)
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        connection = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"
        options = {"connection_string": connection, "account_name": ACCOUNT}
        fs = fsspec.filesystem("abfs", **options)
        fs.mkdir("lake")
        fs.pipe_file("lake/source/a.parquet", source_table())
        yield options
    finally:
        server.terminate()
        server.wait(30)


def listening(port: int) -> None:
    for _ in range(300):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("Azurite didn't start within 30 s")


def place_on(azure: dict[str, Any], folder: Path) -> Place:
    place = Place(folder, "abfs://lake/source/", f"abfs://lake/{folder.name}")
    place.storage = {"abfs://lake/": {name: f"${{AZURE_{name.upper()}}}" for name in azure}}
    place.environment = {f"AZURE_{name.upper()}": value for name, value in azure.items()}
    place.client = azure
    return place


class TestAzureStore(StoreContract):
    """The contract of every store."""

    big = 5 * 2**20
    rounds = 2
    turns = 5

    @pytest.fixture(autouse=True)
    def _options(self, azure: dict[str, Any]) -> None:
        self._azure, self._root = azure, f"abfs://lake/{fresh_name()}"

    def store(self) -> Store:
        return open_store(self._root, {"abfs://lake/": self._azure})


def test_a_job_on_azure_that_is_killed_continues(azure: dict[str, Any], tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    reference = undisturbed(place_on(azure, tmp_path / "whole"))
    place = place_on(azure, tmp_path / "killed")
    process = place.launch()
    wait_for(place.chunks, process)
    process.kill()
    process.communicate()
    code, said = place.finish()
    assert code == 0, said
    found = place.compare(reference)
    assert found.sound, found
    assert found.redo <= one_kill()
    assert place.exclusive() == "proven"


def test_a_container_that_is_missing_is_named_in_seconds(azure: dict[str, Any], tmp_path: Path) -> None:
    place = place_on(azure, tmp_path)
    place.output = "abfs://nowhere/out"
    place.storage["abfs://nowhere/"] = place.storage["abfs://lake/"]
    code, said = place.finish(seconds=60)
    assert code == 2, said
    assert "no such bucket or container" in said


def test_a_wrong_key_is_refused_in_seconds(azure: dict[str, Any], tmp_path: Path) -> None:
    wrong = {**azure, "connection_string": azure["connection_string"].replace("Eby8", "Abc8")}
    code, said = place_on(wrong, tmp_path).finish(seconds=60)
    assert code == 2, said
    assert "check credentials" in said
    assert "Abc8" not in said
