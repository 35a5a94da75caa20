"""One stored object as a seekable file for pyarrow, so that every byte comes through Store.read."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence

import pyarrow as pa

from batchinfer.storage.local import LocalStore
from batchinfer.storage.store import Store

_GAP = 256 * 1024
"""Spans that lie closer than this are fetched by one read."""


class Sized(io.RawIOBase):
    """A file of a known size, for reading at any position."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size, self._position = size, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move and give the new position."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def _advance(self, size: int | None) -> tuple[int, int]:
        """Move over `size` bytes, to the end for None or a negative number, and give where that began and ended."""
        start = self._position
        stop = self._size if size is None or size < 0 else min(self._size, start + size)
        self._position = max(start, stop)
        return start, stop


class RandomAccess(Sized):
    """Read-only. What Store.read raises passes through pyarrow; the last one is kept as `fault`, so that it can't be lost on the way."""

    def __init__(self, store: Store, path: str, size: int) -> None:
        super().__init__(size)
        self.fault: BaseException | None = None
        self._store = store
        self._path = path
        self._starts: list[int] = []
        self._spans: list[memoryview] = []

    def prefetch(self, spans: Sequence[tuple[int, int]]) -> None:
        """Fetch `[start, stop)` spans into memory, neighbours in one read, and forget those fetched before."""
        self._starts, self._spans = [], []
        for start, stop in _coalesced(spans):
            self._starts.append(start)
            self._spans.append(self._fetch(start, stop))

    def read(self, size: int | None = -1) -> memoryview:  # pyarrow takes any buffer
        """At most `size` bytes, fewer only at the end; from memory without a copy where they were prefetched."""
        start, stop = self._advance(size)
        if stop <= start:
            return memoryview(b"")
        i = bisect_right(self._starts, start) - 1
        if i >= 0 and stop - self._starts[i] <= len(self._spans[i]):
            return self._spans[i][start - self._starts[i] : stop - self._starts[i]]
        return self._fetch(start, stop)

    def _fetch(self, start: int, stop: int) -> memoryview:
        try:
            if not isinstance(self._store, LocalStore):
                return memoryview(self._store.read(self._path, start, stop))
            # Arrow's pool keeps its pages, while fresh bytes would be faulted in page by page
            buffer = pa.allocate_buffer(stop - start)
            target = memoryview(buffer)
            return target[: self._store.read_into(self._path, start, target)]
        except BaseException as e:
            self.fault = e
            raise


def _coalesced(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if out and start - out[-1][1] <= _GAP:
            out[-1] = (out[-1][0], max(out[-1][1], stop))
        else:
            out.append((start, stop))
    return out
