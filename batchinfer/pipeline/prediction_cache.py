"""The prediction cache: answers of models that outlive a run, by the content of the rows, in files that several runs may share.

    <path>/<model>/<digest>.arrow                 answers, immutable, named by the SHA-256 of the bytes
    <path>/<model>/<digest>.keys                  of which rows they are; written last, so that what isn't whole isn't there
    <path>/<model>/<digest>.<seconds>.used        when they were used last; the newest counts
    <path>/settings/<digest>.json                 what was settled for a job, so that its repetition measures nothing

Nothing rests on locks: a file that is torn, altered or gone is as good as none, and files that two runs write side by side hold the same
answers twice at worst.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.data.row_keys import KEY_BYTES
from batchinfer.errors import AccessError, OutputError, StorageError
from batchinfer.storage.store import Entry, Store

log = logging.getLogger(__name__)

FORM = 1
"""Of keys and files; another one leaves what is there alone."""
_ANSWERS, _KEYS, _USED = ".arrow", ".keys", ".used"
_DIGEST_BYTES = 32
_MOST_INDEXES = 8
_USED_SECONDS = 3600
"""Uses within so many seconds are noted once."""


@dataclass
class Segment:
    """Answers that were stored together."""

    name: str
    keys: bytes
    """One after the other, in the order of the answers."""
    table: pa.Table | None = None
    """None before they are asked for."""
    used: bool = False


@dataclass(frozen=True)
class _Index:
    """The keys of some segments, sorted by their first half."""

    halves: NDArray[np.uint64]
    places: NDArray[np.uint32]
    """Shape (keys, 2): segment and row."""

    @classmethod
    def of(cls, segments: Sequence[tuple[int, Segment]]) -> _Index:
        """Of segments with their numbers."""
        halves = [_halves(segment.keys) for _, segment in segments]
        places = [
            np.stack([np.full(len(keys), number, np.uint32), np.arange(len(keys), dtype=np.uint32)], axis=1)
            for (number, _), keys in zip(segments, halves, strict=True)
        ]
        every = np.concatenate(halves) if halves else np.empty(0, np.uint64)
        order = np.argsort(every, kind="stable")
        return cls(every[order], np.concatenate(places)[order] if places else np.empty((0, 2), np.uint32))


def _halves(keys: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(keys, np.uint64)[:: KEY_BYTES // 8]


@dataclass
class PredictionCache:
    """The answers of one model.

    Where the cache can't be read or written, the run goes on without it, and says so once.

    Args:
        store: at the cache's path.
        model: digest of all that decides about an answer besides the row.
        schema: of answers; others are passed over.
        max_bytes: of all that is in the cache, of other models too; what was used least recently is removed.

    """

    store: Store
    model: str
    schema: pa.Schema
    max_bytes: int
    _segments: list[Segment | None] = field(default_factory=list)
    """None for one that is gone or damaged."""
    _index: list[_Index] | None = None
    """None before it is known what is there."""
    _failed: bool = False
    _room: tempfile.TemporaryDirectory[str] | None = None

    def _load(self) -> list[_Index]:
        """Find out what is there."""
        self._index = []
        with self._without_failing():
            names = {e.path for e in self.store.list(self.model)}
            found = [self._read_keys(name) for name in sorted(names) if name.endswith(_KEYS)]
            self._segments = [s for s in found if s is not None]
            self._index = [_Index.of([(n, s) for n, s in enumerate(self._segments) if s is not None])]
        return self._index

    def _read_keys(self, path: str) -> Segment | None:
        name = path.removeprefix(f"{self.model}/").removesuffix(_KEYS)
        try:
            data = self.store.read(path)
        except FileNotFoundError:
            return None
        digest, keys = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        return Segment(name, keys) if digest == _signed(name, keys) and not len(keys) % KEY_BYTES else None

    def find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.intp], pa.Table | None]:
        """Positions of the keys that are known, and their answers in the same order; None where there are none."""
        by_segment: dict[int, tuple[list[int], list[int]]] = {}
        wanted = _halves(b"".join(keys))
        found = np.zeros(len(keys), np.bool_)
        for index in self._load() if self._index is None else self._index:
            if not len(index.halves):
                continue
            at = np.minimum(np.searchsorted(index.halves, wanted), len(index.halves) - 1)
            for position in np.flatnonzero((index.halves[at] == wanted) & ~found):
                number, row = map(int, index.places[at[position]])
                segment = self._segments[number]
                if segment is None or segment.keys[row * KEY_BYTES : (row + 1) * KEY_BYTES] != keys[int(position)]:
                    continue
                found[position] = True
                positions, rows = by_segment.setdefault(number, ([], []))
                positions.append(int(position))
                rows.append(row)
        parts = [
            (positions, table.take(pa.array(rows)))
            for number, (positions, rows) in by_segment.items()
            if (table := self._table(number)) is not None
        ]
        if not parts:
            return np.empty(0, np.intp), None
        at = np.concatenate([np.array(positions, np.intp) for positions, _ in parts])
        return at, pa.concat_tables([table for _, table in parts])

    def _table(self, number: int) -> pa.Table | None:
        """The answers of a segment; None, from then on, where they are gone or damaged."""
        segment = self._segments[number]
        if segment is not None and segment.table is None:
            segment.table = self._read_answers(segment)
            if segment.table is None:
                self._segments[number] = segment = None
        if segment is None:
            return None
        segment.used = True
        return segment.table

    def _read_answers(self, segment: Segment) -> pa.Table | None:
        data = None
        with self._without_failing(), contextlib.suppress(FileNotFoundError):
            data = self.store.read(f"{self.model}/{segment.name}{_ANSWERS}")
        if data is None or hashlib.sha256(data).hexdigest() != segment.name:
            return None
        table = pa.ipc.open_file(self._mapped(segment.name, data)).read_all()
        whole = len(table) * KEY_BYTES == len(segment.keys) and table.schema.equals(self.schema)
        return table if whole else None

    def _mapped(self, name: str, data: bytes) -> pa.Buffer:
        """The bytes, in a file of this process where there is room for one: they needn't stay in memory."""
        try:
            if self._room is None:
                self._room = tempfile.TemporaryDirectory(prefix="batchinfer-cache-")
            path = Path(self._room.name) / name
            path.write_bytes(data)
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            path.unlink()  # the mapping keeps it
        except OSError:
            return pa.py_buffer(data)
        return pa.py_buffer(mapped)

    def add(self, keys: Sequence[bytes], answers: pa.Table) -> Segment | None:
        """Store answers, a row for each key, and keep the cache within its bounds; None where they aren't stored."""
        if self._failed or not len(answers):
            return None
        sink = pa.BufferOutputStream()
        table = answers.unify_dictionaries().combine_chunks().replace_schema_metadata(None)
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        data, joined = sink.getvalue().to_pybytes(), b"".join(keys)
        if len(data) + len(joined) > self.max_bytes:
            return None
        segment = Segment(hashlib.sha256(data).hexdigest(), joined, used=True)
        with self._without_failing():
            self.store.put(f"{self.model}/{segment.name}{_ANSWERS}", data)
            self.store.put(f"{self.model}/{segment.name}{_KEYS}", _signed(segment.name, joined) + joined)
            self._note_uses([segment])
            self._evict()
        return None if self._failed else segment

    def include(self, segment: Segment) -> None:
        """Find answers in a segment from now on."""
        index = self._load() if self._index is None else self._index
        self._segments.append(segment)
        index.append(_Index.of([(len(self._segments) - 1, segment)]))
        if len(index) > _MOST_INDEXES:  # each is searched by itself
            self._index = [_Index.of([(n, s) for n, s in enumerate(self._segments) if s is not None])]

    def close(self) -> None:
        """Note what was used."""
        with self._without_failing():
            self._note_uses([s for s in self._segments if s is not None and s.used])
        if self._room is not None:
            self._room.cleanup()

    def _note_uses(self, used: Sequence[Segment]) -> None:
        if not used:
            return
        now, last = int(time.time()), _last_uses(self.store.list(self.model))
        for segment in used:
            segment.used = False
            path = f"{self.model}/{segment.name}"
            if now - last.get(path, (0, []))[0] < _USED_SECONDS:
                continue
            self.store.put(f"{path}.{now}{_USED}", b"")
            for marker in last.get(path, (0, []))[1]:
                self.store.delete(marker)

    def _evict(self) -> None:
        """Remove what was used least recently, until the rest is within the bounds."""
        entries = [e for e in self.store.list() if e.path.endswith((_ANSWERS, _KEYS, _USED))]
        last = _last_uses(entries)
        sizes: dict[str, int] = {}
        for entry in entries:
            if entry.path.endswith((_ANSWERS, _KEYS)):
                path = entry.path.rpartition(".")[0]
                sizes[path] = sizes.get(path, 0) + entry.size
        total = sum(sizes.values())
        for path in sorted(sizes, key=lambda p: (last.get(p, (0, []))[0], p)):
            if total <= self.max_bytes:
                return
            total -= sizes[path]
            # What says that they are there goes first.
            for name in (f"{path}{_KEYS}", f"{path}{_ANSWERS}", *last.get(path, (0, []))[1]):
                self.store.delete(name)

    @contextlib.contextmanager
    def _without_failing(self) -> Iterator[None]:
        try:
            yield
        except (StorageError, AccessError, OutputError) as error:
            if not self._failed:
                log.warning("the prediction cache at %s is left alone from here on: %s", self.store.root, error)
            self._failed = True


def _signed(name: str, keys: bytes) -> bytes:
    """The digest before the keys: of them, and of the answers that they are of."""
    return hashlib.sha256(name.encode() + keys).digest()


def _last_uses(entries: Sequence[Entry]) -> dict[str, tuple[int, list[str]]]:
    """By the path of a segment, when it was used last, in seconds since 1970, and the markers that say so."""
    found: dict[str, tuple[int, list[str]]] = {}
    for entry in entries:
        if entry.path.endswith(_USED):
            path, _, seconds = entry.path.removesuffix(_USED).rpartition(".")
            newest, markers = found.get(path, (0, []))
            if seconds.isdigit():
                found[path] = max(newest, int(seconds)), [*markers, entry.path]
    return found
