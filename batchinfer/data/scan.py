"""From `input.path` to what the footers say: files in input order, their schemas and row groups."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.data import footer as footers
from batchinfer.data.discover import Found, discover
from batchinfer.data.hive import partition_schema
from batchinfer.data.inputs import InputFile
from batchinfer.data.statistics import UNKNOWN, ColumnStats, Written, of_chunk
from batchinfer.data.volumes import Volumes
from batchinfer.errors import InputError
from batchinfer.storage.kept_bytes import KeptBytes
from batchinfer.storage.store import Entry, StorageOptions

_SHOWN = 5
_THREADS = 16


@dataclass(frozen=True, slots=True)
class RowGroup:
    """What planning needs of a row group."""

    rows: int
    statistics: dict[str, ColumnStats]
    """Of the columns asked for that are not nested."""


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """One input file and what its footer says."""

    file: InputFile
    schema: pa.Schema
    """The file's own, without partition columns."""
    row_groups: tuple[RowGroup, ...]
    column_bytes: tuple[int, ...]
    """Uncompressed bytes of each column of `schema` over all row groups, as encoded in the file."""


@dataclass(frozen=True)
class ScannedInput:
    """The whole input at one moment."""

    files: tuple[ScannedFile, ...]
    """In input order: order of the list, then path bytes."""
    ignored: tuple[str, ...]
    """URLs of files that lie among them and aren't Parquet by their name."""
    notes: tuple[str, ...]
    """What a user should be told."""

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(f.file.rows for f in self.files)

    @property
    def columns(self) -> list[str]:
        """Names of all columns: in the order of the first file, then those that later files add, then partition columns."""
        schemas = {id(f.schema): f.schema for f in self.files}.values()
        partitions = [key for key, _ in self.files[0].file.partition] if self.files else []
        names = dict.fromkeys(name for schema in schemas for name in schema.names if name not in partitions)
        return [*names, *partitions]


def scan(
    path: str | Sequence[str],
    options: StorageOptions | None = None,
    threads: int = _THREADS,
    *,
    statistics: Collection[str] = (),
    kept: KeptBytes | None = None,
) -> ScannedInput:
    """Find the files and read their footers; no row is read.

    Args:
        path: a file, a directory (read recursively), a glob, or a list of them; local, or URLs.
        options: fsspec options by URL prefix.
        threads: footers fetched at once.
        statistics: columns whose statistics are kept, that is those of `where`.
        kept: where bytes of remote files are kept.

    Raises:
        InputError: nothing matches, a file is unreadable, encrypted, hostile or named twice, or partitions differ.
        StorageError, AccessError: the store can't be read.

    """
    volumes = Volumes(options, kept)
    found = discover([path] if isinstance(path, str) else path, volumes)
    schemas = _Interned()
    wanted = frozenset(statistics)

    def one(file: Found) -> ScannedFile | InputError:
        try:
            return _scan_file(replace(file, store=volumes.kept(file.store, file.entry.version)), schemas, wanted)
        except InputError as e:
            return e

    with ThreadPoolExecutor(max_workers=max(1, min(threads, len(found.files)))) as pool:
        results = list(pool.map(one, found.files))
    bad = [r for r in results if isinstance(r, InputError)]
    if bad:
        more = [f"… and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
        head = [f"{len(bad)} of {len(results)} input files can't be used:"] if len(bad) > 1 else []
        raise InputError("\n".join([*head, *(str(e) for e in bad[:_SHOWN]), *more]))
    files = tuple(r for r in results if isinstance(r, ScannedFile))
    partition_schema([f.file for f in files])
    return ScannedInput(files, found.ignored, _notes(found.ignored))


def rescan(files: Sequence[InputFile], options: StorageOptions | None = None) -> ScannedInput:
    """The pinned files, as their footers say today.

    Raises:
        InputError: a file is gone, or isn't the one that was pinned.
        StorageError, AccessError: the store can't be read.

    """
    volumes = Volumes(options)
    schemas = _Interned()

    def one(file: InputFile) -> ScannedFile:
        store, path = volumes.locate(file.path)
        entry = Entry(path, file.size, file.version)
        scanned = _scan_file(Found(file.path, store, path, entry, file.partition), schemas, frozenset())
        if scanned.file != file:
            raise InputError(f"{file.path}: not as it was when the job was planned: its footer is another one")
        return scanned

    with ThreadPoolExecutor(max_workers=max(1, min(_THREADS, len(files)))) as pool:
        waiting = [pool.submit(one, file) for file in files]
        try:
            return ScannedInput(tuple(future.result() for future in waiting), (), ())
        finally:
            pool.shutdown(cancel_futures=True)  # after an error: a store that is away would be asked for every file


def _notes(ignored: Sequence[str]) -> tuple[str, ...]:
    if not ignored:
        return ()
    names = ", ".join(ignored[:_SHOWN]) + (", …" if len(ignored) > _SHOWN else "")
    return (f"{len(ignored)} file{'s' if len(ignored) > 1 else ''} ignored, not Parquet by name: {names}",)


class _Interned:
    """Equal schemas of many files held once; a few recent ones are compared, since most inputs have one schema."""

    def __init__(self) -> None:
        self._recent: tuple[pa.Schema, ...] = ()
        self._lock = threading.Lock()

    def __call__(self, schema: pa.Schema) -> pa.Schema:
        for known in self._recent:
            if known.equals(schema):
                return known
        with self._lock:
            self._recent = (schema, *self._recent[:7])
        return schema


def _scan_file(found: Found, schemas: _Interned, wanted: frozenset[str]) -> ScannedFile:
    size = found.entry.size
    data = footers.fetch(found.store, found.path, size, found.url)
    footer = footers.parse(data, size, found.url)
    metadata = footer.metadata
    file = InputFile(found.url, size, found.entry.version, footer.digest, metadata.num_rows, found.partition)
    schema = schemas(footer.schema.remove_metadata())
    return ScannedFile(file, schema, *_row_groups(data, metadata, schema, wanted))


def _leaves(metadata: pq.FileMetaData, schema: pa.Schema) -> list[tuple[int, bool]]:
    """For each leaf column, the index of its top-level column (-1 for none), and whether it is that column itself.

    The latter only where no other leaf has the same path, as a column `a.b` and the field b of a struct a do.
    """
    places = {name: i for i, name in enumerate(schema.names)}
    found = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    paths = Counter(leaf.path for leaf in found)
    leaves = []
    for leaf in found:
        top = leaf.path
        while top not in places and "." in top:
            top = top.rpartition(".")[0]
        flat = top in places and top == leaf.path and paths[top] == 1 and leaf.max_repetition_level == 0
        leaves.append((places.get(top, -1), flat))
    return leaves


def _row_groups(
    footer: bytes, metadata: pq.FileMetaData, schema: pa.Schema, wanted: Collection[str]
) -> tuple[tuple[RowGroup, ...], tuple[int, ...]]:
    """The row groups, and the bytes of each top-level column over all of them."""
    sizes = [0] * len(schema)
    leaves = _leaves(metadata, schema)
    written = Written(footer) if wanted else None
    groups = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        statistics: dict[str, ColumnStats] = {}
        for i, (top, flat) in enumerate(leaves):
            chunk = group.column(i)
            sizes[top] += max(0, chunk.total_uncompressed_size)
            if written and flat and schema.names[top] in wanted:
                sound = written.sound(index, i, metadata.schema.column(i))
                statistics[schema.names[top]] = of_chunk(chunk, group.num_rows) if sound else UNKNOWN
        groups.append(RowGroup(group.num_rows, statistics))
    return tuple(groups), tuple(sizes)
