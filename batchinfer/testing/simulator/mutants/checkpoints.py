"""Wrong ways of going on from the chunks of a shard."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from unittest import mock

import pyarrow as pa

from batchinfer.ledger import chunks
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store
from batchinfer.testing.simulator.mutants.registry import mutant

Load = Callable[[Store, JobPaths, int, Mapping[str, pa.Schema], str], dict[str, pa.Table]]


@contextlib.contextmanager
def _loading(load: Load) -> Iterator[None]:
    with mock.patch.object(chunks, "load", load):
        yield


def _found(store: Store, job: JobPaths, shard: int) -> Iterator[tuple[str, pa.Table]]:
    """The chunks below a shard's folder, whatever they are, each with its step."""
    for entry in store.list(job.chunks(shard)):
        with contextlib.suppress(FileNotFoundError):
            table = pa.ipc.open_file(pa.py_buffer(store.read(entry.path))).read_all()
            yield table.schema.metadata[b"batchinfer.step"].decode(), table.replace_schema_metadata(None)


@mutant
def chunks_are_not_checked() -> Iterator[None]:
    """A chunk counts whatever its digest, its shard and its settings."""

    def load(
        store: Store, job: JobPaths, shard: int, outputs: Mapping[str, pa.Schema], settings: str
    ) -> dict[str, pa.Table]:
        del settings
        tables = {name: [chunks.schema(columns).empty_table()] for name, columns in outputs.items()}
        for step, table in _found(store, job, shard):
            tables[step].append(table)
        return {name: chunks._first_of_each(pa.concat_tables(found)) for name, found in tables.items()}

    with _loading(load):
        yield


@mutant
def chunks_are_of_any_step() -> Iterator[None]:
    """What a step answered counts as the answer of whichever step comes first."""
    right = chunks.load

    def load(
        store: Store, job: JobPaths, shard: int, outputs: Mapping[str, pa.Schema], settings: str
    ) -> dict[str, pa.Table]:
        own = right(store, job, shard, outputs, settings)
        every = [table for table in own.values() if len(table)]
        mixed = {}
        for name, table in own.items():
            named = [other.rename_columns(table.schema.names) for other in every if other is not table]
            mixed[name] = chunks._first_of_each(pa.concat_tables([table, *named]))
        return mixed

    with _loading(load):
        yield


@mutant
def a_later_step_loses_its_chunks() -> Iterator[None]:
    """Only the first step goes on from where it was."""
    right = chunks.load

    def load(
        store: Store, job: JobPaths, shard: int, outputs: Mapping[str, pa.Schema], settings: str
    ) -> dict[str, pa.Table]:
        own, first = right(store, job, shard, outputs, settings), next(iter(outputs))
        return {name: table if name == first else table.slice(0, 0) for name, table in own.items()}

    with _loading(load):
        yield
