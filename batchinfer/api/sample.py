"""Some predictions beside the input that they were made of: rows drawn by chance, and no row group read that holds none of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.api.results import Results
from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.data.reader import Reader, sources
from batchinfer.data.scan import ScannedFile, rescan
from batchinfer.data.schema import unify
from batchinfer.data.stream import FileStream
from batchinfer.errors import InputError
from batchinfer.ledger import generations
from batchinfer.ledger import parts as ledger_parts
from batchinfer.plan.shards import Shard
from batchinfer.storage import paths as places
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Entry

_THREADS = 8
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class _Part:
    """A part that stands."""

    path: str
    size: int
    rows: int
    shard: Shard


@dataclass(frozen=True)
class _Drawn:
    """Rows of one part, and where each comes from."""

    predictions: pa.Table
    inputs: tuple[RowRange, ...]
    """Ranges of one row."""
    numbers: NDArray[np.int64]
    """The job's numbers of the rows."""


def sample(results: Results, job: JobPaths, rows: int, seed: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows that were predicted, each as likely as any other, in input order: input columns, then the outputs.

    An input column that has the name of an output comes as `<name>_input`. Rows that are dead or filtered are not among them.

    Args:
        results: where the predictions stand.
        job: whose they are.
        rows: how many; all where there are fewer.
        seed: the same one draws the same rows, as long as the parts are the same.
        columns: of the input; None for all.

    Raises:
        ValueError: `rows` is below 1.
        InputError: the input isn't as it was planned, can't be read, or lacks a column.
        OutputError: a part is gone or damaged.
        StorageError, AccessError: input or output can't be read.

    """
    if rows < 1:
        raise ValueError(f"a sample needs at least one row, not {rows}")
    known = generations.every(results.store, job)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="batchinfer-sample") as pool:
        parts = _standing(results, {s.number: s for g in known for s in g.shards}, pool)
        chosen = _choose(parts, rows, seed)
        drawn = list(pool.map(lambda one: _draw(results, *one), chosen))
        if not drawn:
            return pa.table({})
        files = {r.file.path: r.file for d in drawn for r in d.inputs}
        schema = unify(_scanned(files.values(), results), columns).schema
        given = list(pool.map(lambda d: _read_inputs(d.inputs, schema, results), drawn)) if schema.names else []
    predictions = pa.concat_tables([d.predictions for d in drawn], promote_options="permissive")
    order = np.argsort(np.concatenate([d.numbers for d in drawn]), kind="stable")
    return _joined(given, predictions, known[-1].carried).take(pa.array(order))


def _standing(results: Results, shards: Mapping[int, Shard], pool: Executor) -> list[_Part]:
    """The parts with their rows, which their footers tell where no manifest does yet."""
    if results.parts is not None:
        return [_Part(p.path, p.bytes, p.counts.succeeded, shards[p.shard]) for p in results.parts]
    there = [entry for entry in results.store.list(places.DATA) if entry.path in results.paths]

    def read(entry: Entry) -> _Part:
        where = f"{results.store.root}/{entry.path}"
        decision = ledger_parts.decision_in(ledger_parts.fetch_footer(results.store, entry.path, entry.size), where)
        return _Part(entry.path, entry.size, decision.counts.succeeded, shards[decision.shard])

    return list(pool.map(read, there))


def _choose(parts: Sequence[_Part], rows: int, seed: int) -> list[tuple[_Part, NDArray[np.int64]]]:
    """The parts that hold rows of the sample, with the places of these in them, ascending."""
    ends = np.cumsum([part.rows for part in parts], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(rows, total), replace=False)).astype(np.int64)
    chosen_of = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    places_in = [(part, mine - (end - part.rows)) for part, mine, end in zip(parts, chosen_of, ends, strict=True)]
    return [(part, rows) for part, rows in places_in if len(rows)]


def _draw(results: Results, part: _Part, rows: NDArray[np.int64]) -> _Drawn:
    """Read these rows of a part, and find where they come from."""
    where = f"{results.store.root}/{part.path}"
    footer = ledger_parts.fetch_footer(results.store, part.path, part.size)
    decision = ledger_parts.decision_in(footer, where)
    alive = np.delete(np.arange(part.shard.rows), np.concatenate([decision.dead, decision.filtered]))
    ordinals = alive[rows]
    file = InputFile(where, part.size, "", footer.digest, part.rows)
    schema = footer.schema.remove_metadata()
    try:
        stream = FileStream(results.store, part.path, file, schema)
        pieces = [table for row in rows.tolist() for _, table in stream.rows(row, row + 1, _BATCH_ROWS)]
    except InputError as e:
        raise ledger_parts.damaged(where, e) from e
    files = {r.file.path: r.file for r in part.shard.ranges}
    ranges = [RowRange(files[path], at, 1) for path, at in sources(part.shard.ranges, ordinals.tolist())]
    return _Drawn(pa.concat_tables(pieces), tuple(ranges), part.shard.job_rows()[ordinals])


def _scanned(files: Iterable[InputFile], results: Results) -> Sequence[ScannedFile]:
    try:
        return rescan(tuple(files), results.options).files
    except InputError as e:
        raise InputError(f"a sample reads the input, which must be as it was planned: {e}") from e


def _read_inputs(ranges: tuple[RowRange, ...], schema: pa.Schema, results: Results) -> pa.Table:
    """Those rows of the input, in their order."""
    (window,) = Reader(schema, options=results.options).windows(ranges, len(ranges))
    return window.table


def _joined(given: Sequence[pa.Table], predictions: pa.Table, carried: Collection[str]) -> pa.Table:
    """Columns that were carried and not asked for, those of the input, and the outputs. What was carried is taken as it was written."""
    inputs = pa.concat_tables(given) if given else pa.table({})
    asked, made = inputs.column_names, predictions.column_names
    columns = {name: predictions[name] for name in made if name in carried and name not in asked}
    for name in asked:
        if name in carried:
            columns[name] = predictions[name]
        else:
            columns[_unused(name, {*asked, *made}) if name in made else name] = inputs[name]
    return pa.table(columns | {name: predictions[name] for name in made if name not in columns})


def _unused(name: str, used: Collection[str]) -> str:
    name = f"{name}_input"
    return name if name not in used else _unused(name, used)
