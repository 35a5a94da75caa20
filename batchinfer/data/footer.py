"""The footer of one Parquet file: fetched with one or two reads, bounded before it is believed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.data.access import Sized
from batchinfer.errors import InputError
from batchinfer.storage.store import Store

TAIL = 64 * 1024
"""Bytes fetched first; the footers of most files are shorter."""
_MAX_FOOTER = 256 * 2**20
_MAX_RATIO = 1000
_RATIO_FREE = 64 * 2**20
_MAX_GROUP_ROWS = 2**31 - 1
_MAX_GROUP_BYTES = 64 * 2**30
_MAX_ROWS_PER_BYTE = 100_000
_SIGNATURE = 28
"""Bytes that follow the metadata in a footer that is signed because columns are encrypted."""

THRIFT_LIMITS = {"thrift_string_size_limit": 100_000_000, "thrift_container_size_limit": 1_000_000}


@dataclass(frozen=True)
class Footer:
    """A parsed footer."""

    metadata: pq.FileMetaData
    schema: pa.Schema
    """Arrow schema of the file."""
    digest: str
    """SHA-256 of the footer's bytes without length and magic, hexadecimal."""


def fetch(store: Store, path: str, size: int, url: str) -> bytes:
    """The bytes of a footer, without its length and magic.

    Args:
        store: holds the file.
        path: of the file, inside the store.
        size: of the file in bytes.
        url: names the file in errors.

    Raises:
        InputError: the file is no Parquet, is truncated, is encrypted, or isn't `size` bytes long.
        StorageError, AccessError: the store can't be read.

    """
    try:
        tail = store.read(path, max(0, size - TAIL), size + 1)
    except FileNotFoundError as e:
        raise InputError(
            f"{url}: the file is gone, or a symbolic link to nothing; its name was there when the input was listed"
        ) from e
    if len(tail) != min(size, TAIL):
        raise InputError(
            f"{url}: the file changed while it was read: its size isn't {size:,} bytes any more; plan again"
        )
    if size < 12:
        raise InputError(f"{url}: not a Parquet file: {size} bytes are too few; was the write of it completed?")
    if tail[-4:] == b"PARE":
        raise InputError(_encrypted(url))
    if tail[-4:] != b"PAR1":
        raise InputError(f"{url}: not a Parquet file, or truncated: it ends with {tail[-4:]!r} instead of b'PAR1'")
    length = int.from_bytes(tail[-8:-4], "little")
    if length > min(size - 12, _MAX_FOOTER) or length == 0:
        raise InputError(
            f"{url}: corrupt: a footer of {length:,} bytes in a file of {size:,} (at most {_MAX_FOOTER:,} are read)"
        )
    if length + 8 <= len(tail):
        return tail[-8 - length : -8]
    try:
        return store.read(path, size - 8 - length, size - len(tail)) + tail[:-8]
    except FileNotFoundError as e:
        raise InputError(f"{url}: the file disappeared while it was read") from e


def digest(footer: bytes) -> str:
    """See Footer.digest."""
    return hashlib.sha256(footer).hexdigest()


def parse(footer: bytes, size: int, url: str, *, known: bool = False) -> Footer:
    """Parse and bound a footer of a file of `size` bytes.

    `known`: the same bytes were parsed before, so that nothing in them can be out of bounds.

    Raises InputError with the numbers that are out of bounds.
    """
    hollow = _Hollow(footer, size)
    try:
        file = pq.ParquetFile(pa.PythonFile(hollow, mode="r"), pre_buffer=True, **THRIFT_LIMITS)
        metadata = file.metadata
        schema = file.schema_arrow
    except (OSError, ValueError, TypeError, NotImplementedError, MemoryError, pa.ArrowException) as e:
        raise InputError(f"{url}: the footer can't be read: {_short(e)}") from e
    if len(footer) - metadata.serialized_size == _SIGNATURE:  # asking for a column's metadata would abort the process
        raise InputError(_encrypted(url))
    if not known:
        _bound(metadata, size, url)
        _visit_chunks(file, hollow, url)
    return Footer(metadata, schema, digest(footer))


class _Hollow(Sized):
    """A file of which only the footer is there."""

    def __init__(self, footer: bytes, size: int) -> None:
        super().__init__(size)
        self._tail = b"".join((footer, len(footer).to_bytes(4, "little"), b"PAR1"))
        self.is_open = True
        """Whether it gives anything; zeros before the footer."""
        self.asked = False
        """Whether it was read from since it isn't open."""

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes; none where it isn't open."""
        if not self.is_open:
            self.asked = True
            return b""  # Arrow would keep an exception for ever, and with its frames whatever these hold
        start, stop = self._advance(size)
        edge = self._size - len(self._tail)
        return bytes(max(0, min(stop, edge) - start)) + self._tail[max(0, start - edge) : max(0, stop - edge)]


def _visit_chunks(file: pq.ParquetFile, hollow: _Hollow, url: str) -> None:
    """Have every column chunk's metadata checked where a fault becomes an exception: asking for it from Python ends the process.

    Arrow looks at all of them, in this way, before it fetches the first page.
    """
    hollow.is_open = False
    try:
        next(file.iter_batches(1, use_threads=False), None)
    except Exception as e:
        if not hollow.asked:
            raise InputError(f"{url}: corrupt: the footer describes a column wrongly: {_short(e)}") from e


def _bound(metadata: pq.FileMetaData, size: int, url: str) -> None:
    rows = 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        rows += group.num_rows
        if not 0 <= group.num_rows <= _MAX_GROUP_ROWS:
            raise InputError(
                f"{url}: refused: row group {i} claims {group.num_rows:,} rows; between 0 and {_MAX_GROUP_ROWS:,} are possible"
            )
        plain = group.total_byte_size
        if (plain > _RATIO_FREE and plain > _MAX_RATIO * size) or plain > _MAX_GROUP_BYTES:
            raise InputError(
                f"{url}: refused: row group {i} claims {plain:,} bytes from a file of {size:,}; at most {_MAX_RATIO:,} times the file's size "
                f"and {_MAX_GROUP_BYTES:,} bytes are believed. If the file is sound, rewrite it with smaller row groups"
            )
    if rows != metadata.num_rows:
        raise InputError(f"{url}: corrupt: the footer counts {metadata.num_rows:,} rows, its row groups {rows:,}")
    if rows > _MAX_ROWS_PER_BYTE * size:
        raise InputError(
            f"{url}: refused: {rows:,} rows in {size:,} bytes; at most {_MAX_ROWS_PER_BYTE:,} rows a byte are believed"
        )


def _encrypted(url: str) -> str:
    return f"{url}: the file is encrypted, and batchinfer holds no keys; decrypt it into another file first"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
