"""The rows of two outputs of one input side by side: by their place in the input, or by a key."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchinfer.errors import RefusedError
from batchinfer.ledger import dead
from batchinfer.report.comparison import RowCounts
from batchinfer.report.numbered_rows import NumberedRows, Rows
from batchinfer.report.same_input import Matched
from batchinfer.report.standing import StandingOutput

WINDOW = 8192
"""Rows of each output that are held at a time."""
_PARTITION_BYTES = 64 * 2**20
_MOST_PARTITIONS = 256
_KEY = "__batchinfer_key"


@dataclass(frozen=True)
class Pair:
    """Rows that both outputs predicted, row by row the same."""

    first: pa.Table
    second: pa.Table
    numbers: NDArray[np.int64] | None
    """The first job's numbers of them, shape (n,); None where rows were found by a key."""
    keys: pa.Array | None
    """As text, where rows were found by a key."""


@dataclass
class Paired:
    """Iterating gives the pairs; then `rows` counts what was met."""

    pairs: Iterator[Pair]
    counts: list[RowCounts] = field(default_factory=list)

    @property
    def rows(self) -> RowCounts:
        """The sum of what was met so far."""
        fields = RowCounts.__dataclass_fields__
        return RowCounts(**{name: sum(getattr(c, name) for c in self.counts) for name in fields})


def by_place(
    first: StandingOutput,
    second: StandingOutput,
    spans: Sequence[Matched],
    columns: tuple[Sequence[str], Sequence[str]],
) -> Paired:
    """Rows of one place in the input, in the order of the first output. Memory holds a window of each.

    Args:
        first: the one output.
        second: the other.
        spans: the rows that are in both inputs.
        columns: that are read of each.

    """
    counts: list[RowCounts] = []

    def pairs() -> Iterator[Pair]:
        met = [0, 0]
        one, two = NumberedRows(first, columns[0]), NumberedRows(second, columns[1])
        for span in spans:
            for at in range(0, span.rows, WINDOW):
                rows = min(WINDOW, span.rows - at)
                a = one.read(span.first + at, span.first + at + rows)
                b = two.read(span.second + at, span.second + at + rows)
                shift = span.first - span.second
                both, i, j = np.intersect1d(a.numbers, b.numbers + shift, assume_unique=True, return_indices=True)
                counts.append(_met(a, b, shift, len(both)))
                met = [met[0] + len(a.numbers), met[1] + len(b.numbers)]
                if len(both):
                    yield Pair(a.table.take(pa.array(i)), b.table.take(pa.array(j)), both, None)
        beyond = [_succeeded(output) - n for output, n in zip((first, second), met, strict=True)]
        counts.append(RowCounts(only_first=beyond[0], only_second=beyond[1]))

    return Paired(pairs(), counts)


def _met(a: Rows, b: Rows, shift: int, both: int) -> RowCounts:
    return RowCounts(
        both,
        len(a.numbers) - both,
        len(b.numbers) - both,
        len(np.intersect1d(a.dead, b.numbers + shift, assume_unique=True)),
        len(np.intersect1d(a.numbers, b.dead + shift, assume_unique=True)),
        len(np.intersect1d(a.dead, b.dead + shift, assume_unique=True)),
    )


def _succeeded(output: StandingOutput) -> int:
    return sum(p.counts.succeeded for p in output.parts)


def by_key(
    first: StandingOutput, second: StandingOutput, key: str, columns: tuple[Sequence[str], Sequence[str]]
) -> Paired:
    """Rows of one value of a key, in no particular order.

    Both outputs are divided by the key's hash into files in a temporary folder, of which one of each is in memory at a time (GRACE hash
    join: Kitsuregawa, Tanaka, Moto-oka, "Application of hash to data base machine and its architecture", 1983).

    Raises RefusedError where a value of the key stands in several rows of an output.
    """
    counts: list[RowCounts] = []

    def pairs() -> Iterator[Pair]:
        size = max(sum(p.bytes for p in o.parts) for o in (first, second))
        partitions = min(_MOST_PARTITIONS, 1 + 4 * size // _PARTITION_BYTES)  # they are compressed
        gone = [_dead_keys(output, key) for output in (first, second)]
        counts.append(RowCounts(dead_in_both=len(np.intersect1d(*(g.to_numpy(zero_copy_only=False) for g in gone)))))
        with tempfile.TemporaryDirectory(prefix="batchinfer-compare-") as folder:
            nameless = [
                _divide(output, key, asked, Path(folder, side), partitions)
                for output, asked, side in zip((first, second), columns, ("first", "second"), strict=True)
            ]
            counts.append(RowCounts(only_first=nameless[0], only_second=nameless[1]))
            for n in range(partitions):
                a, b = (_loaded(Path(folder, side), n) for side in ("first", "second"))
                for table, output in ((a, first), (b, second)):
                    _refuse_repeated(table, key, output)
                keys, others = (t.column(_KEY).combine_chunks() for t in (a, b))
                at = pc.index_in(keys, value_set=others)
                both = at.is_valid()
                alone = others.filter(pc.invert(pc.is_in(others, value_set=keys)))
                missed = keys.filter(pc.invert(both))
                counts.append(
                    RowCounts(
                        both.true_count,
                        len(missed),
                        len(alone),
                        pc.sum(pc.is_in(alone, value_set=gone[0])).as_py() or 0,
                        pc.sum(pc.is_in(missed, value_set=gone[1])).as_py() or 0,
                    )
                )
                if both.true_count:
                    matched = keys.filter(both)
                    yield Pair(a.filter(both), b.take(at.drop_null()), None, matched)

    return Paired(pairs(), counts)


def _dead_keys(output: StandingOutput, key: str) -> pa.Array:
    """Keys of the dead rows as text; none where the job has another key."""
    if output.key != key:
        return pa.array([], pa.string())
    letters = dead.counted(dead.letters(output.store, output.parts, output.generations))
    return letters["key"].combine_chunks().drop_null()


def _divide(output: StandingOutput, key: str, columns: Sequence[str], folder: Path, partitions: int) -> int:
    """Write an output's rows by the hash of their key; gives how many have none."""
    import polars as pl

    folder.mkdir()
    source = NumberedRows(output, list(dict.fromkeys([key, *columns])))
    writers: dict[tuple[int, str], Any] = {}
    nameless = 0
    try:
        for start in range(0, source.stop, WINDOW):
            table = source.read(start, min(start + WINDOW, source.stop)).table
            if not table.num_rows:
                continue
            table = table.append_column(_KEY, as_text(table.column(key)))
            named = table.filter(pc.is_valid(table.column(_KEY)))
            nameless += table.num_rows - named.num_rows
            keys = pl.from_arrow(named.column(_KEY))
            assert isinstance(keys, pl.Series)
            hashes = keys.hash(seed=0).to_numpy() % partitions
            for n in np.unique(hashes).tolist():
                piece = named.filter(pa.array(hashes == n))
                at = (n, str(piece.schema))  # a later part may know a type that an earlier one doesn't
                if at not in writers:
                    writers[at] = pa.ipc.new_file(str(folder / f"{n}-{len(writers)}"), piece.schema)
                writers[at].write_table(piece)
    finally:
        for writer in writers.values():
            writer.close()
    return nameless


def _loaded(folder: Path, partition: int) -> pa.Table:
    tables = [pa.table({_KEY: pa.array([], pa.string())})]
    for path in sorted(folder.glob(f"{partition}-*")):
        with pa.ipc.open_file(str(path)) as file:
            tables.append(file.read_all())
    return pa.concat_tables(tables, promote_options="permissive")


def _refuse_repeated(table: pa.Table, key: str, output: StandingOutput) -> None:
    repeated = table.num_rows - len(pc.unique(table.column(_KEY)))
    if repeated:
        raise RefusedError(
            f"{output.store.root}: the key {key!r} does not name a row: {repeated:,} rows or more have the key of another one. "
            "Give another --key, or none where both outputs are of the same input: rows are then found by their place in it"
        )


def as_text(column: pa.ChunkedArray) -> pa.Array:
    """A key's values as dead letters have them."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.string()).combine_chunks()
    return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())
