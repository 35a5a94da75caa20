"""An S3 bucket whose objects are counted by the bytes that leave it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
from aiohttp import web

from tests.chaos.proxy import Proxy

KEYS = {"key": "testing", "secret": "testing", "client_kwargs": {"region_name": "us-east-1"}}


class Lake(Proxy):
    """The bucket `lake` of a server; `sent` are the bytes of objects that were read from it."""

    def __init__(self, backend: str, folder: str) -> None:
        super().__init__(backend)
        self.root, self.sent = f"s3://lake/{folder}", 0
        self._fs = fsspec.filesystem(
            "s3", endpoint_url=backend, **KEYS, skip_instance_cache=True, use_listings_cache=False
        )

    @property
    def storage(self) -> dict[str, dict[str, Any]]:
        """The options under `storage` by which a job reads from it."""
        return {"s3://lake/": {"endpoint_url": self.url, **KEYS}}

    def put(self, name: str, data: bytes) -> str:
        """Store an object, and give its URL."""
        self._fs.pipe_file(f"{self.root}/{name}", data)
        return f"{self.root}/{name}"

    def put_folder(self, name: str, folder: Path) -> str:
        """Store the files of a folder, and give its URL."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"{self.root}/{name}/"

    async def _forward(self, request: web.Request, *, blind: bool) -> tuple[int, Any, bytes]:
        status, headers, body = await super()._forward(request, blind=blind)
        if request.method == "GET" and "list-type" not in request.query:
            self.sent += len(body)
        return status, headers, body


def forget(cache: Path) -> None:
    """Leave the cache as a machine has it that has fetched nothing."""
    shutil.rmtree(cache, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
