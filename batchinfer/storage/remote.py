"""The five verbs over fsspec. Passing faults are retried here with jittered backoff; nothing above retries storage."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity

from batchinfer.errors import AccessError, OutputError, RefusedError, StorageError
from batchinfer.storage.faults import Fault, classify
from batchinfer.storage.protocol import Entry

T = TypeVar("T")
log = logging.getLogger(__name__)

RETRY_SECONDS = 300.0
"""How long a fault of the store is retried before it counts as gone."""

_VERSION_KEYS = ("ETag", "etag", "generation", "content_settings", "LastModified", "mtime", "created")


def _is_passing(error: BaseException) -> bool:
    return classify(error) is Fault.PASSING


class FsspecStore:
    """Objects below `root` of an fsspec file system, which must be opened without a listing cache."""

    def __init__(
        self, root: str, fs: Any, *, retry_seconds: float = RETRY_SECONDS, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.root = root
        self._fs = fs
        self._base: str = fs._strip_protocol(root).rstrip("/")
        self._retry_seconds = self._patience = retry_seconds
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_passing),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=30),
            stop=lambda state: (state.seconds_since_start or 0.0) >= self._patience,
            sleep=sleep,
            before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
            reraise=True,
        )

    def _full(self, path: str) -> str:
        return f"{self._base}/{path.strip('/')}".rstrip("/")

    def _call(self, verb: str, path: str, request: Callable[[], T]) -> T:
        try:
            answer = self._retrying(request)
        except Exception as e:
            fault, what = classify(e), f"{self.root}/{path}"
            # One that was away for so long is not waited for again, until it answers: a run that ends makes several requests.
            self._patience = 0.0 if fault is Fault.PASSING else self._retry_seconds
            match fault:
                case Fault.PASSING:
                    raise StorageError(
                        f"{what}: could not {verb} it: {type(e).__name__}: {e}; run the same command again to go on"
                    ) from e
                case Fault.DENIED:
                    raise AccessError(
                        f"{what}: the store refused to {verb} it: check credentials and their rights ({e})"
                    ) from e
                case Fault.REFUSED:
                    raise RefusedError(
                        f"{what}: the store can't {verb} it: {type(e).__name__}: {e}; check the URL and the options under storage"
                    ) from e
                case Fault.MISSING if not isinstance(e, OSError):
                    raise FileNotFoundError(what) from e
            raise
        self._patience = self._retry_seconds
        return answer

    def list(self, prefix: str = "") -> list[Entry]:
        """See Store.list."""

        def request() -> list[Entry]:
            try:
                found = self._fs.find(self._full(prefix), detail=True)
            except FileNotFoundError:
                return []
            if not isinstance(found, dict):  # adlfs gives bare names where the prefix is an object
                found = {path: self._fs.info(path) for path in found}
            entries = (
                self._entry(path, info or self._fs.info(path))
                for path, info in found.items()
                if info.get("type", "file") == "file"
            )
            return sorted(entries, key=lambda e: e.path)

        return self._call("list", prefix, request)

    def _entry(self, path: str, info: dict[str, Any]) -> Entry:
        version = next((str(info[k]) for k in _VERSION_KEYS if info.get(k) is not None), "")
        name = self._fs._strip_protocol(path).removeprefix(self._base).strip("/")
        return Entry(name, int(info["size"]), version.strip('"'))

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store.read."""
        if stop is not None and stop <= start:
            return b""

        def request() -> bytes:
            try:
                return bytes(self._fs.cat_file(self._full(path), start=start or None, end=stop))
            except Exception as e:
                if classify(e) in (Fault.MISSING, Fault.DENIED):
                    raise
                # Services refuse a range that begins past the end, each with an error of its own.
                if (start or stop is not None) and start >= int(self._fs.info(self._full(path))["size"]):
                    return b""
                raise

        return self._call("read", path, request)

    def put(self, path: str, data: bytes) -> None:
        """See Store.put."""
        try:
            self._call("write", path, lambda: self._fs.pipe_file(self._full(path), data))
        except FileNotFoundError as e:
            raise self._no_bucket() from e

    def _no_bucket(self) -> OutputError:
        return OutputError(f"{self.root}: there is no such bucket or container: make it first, or correct output.path")

    def create(self, path: str, data: bytes) -> bool:
        """See Store.create.

        A create whose answer was lost is retried below us and then reports that the name exists, although the object is ours;
        and services name a conflict in several ways. So every failure is followed by reading back what stands there.
        """

        def request() -> bool:
            try:
                self._fs.pipe_file(self._full(path), data, mode="create")
            except Exception as error:
                if classify(error) in (Fault.MISSING, Fault.DENIED):
                    raise
                # Whatever was said, what stands there decides.
                try:
                    return bool(self._fs.cat_file(self._full(path)) == data)
                except FileNotFoundError:
                    if isinstance(error, FileExistsError):
                        # A conflict with one that has vanished since, or is not visible yet.
                        raise ConnectionError(f"{path}: reported as existing, but not there") from error
                    raise error from None
            return True

        try:
            return self._call("create", path, request)
        except FileNotFoundError as e:
            raise self._no_bucket() from e

    def delete(self, path: str) -> None:
        """See Store.delete."""

        with contextlib.suppress(FileNotFoundError):
            self._call("delete", path, lambda: self._fs.rm_file(self._full(path)))
