"""One schema for all files of the input, and a file's rows made to fit it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from batchinfer.data.hive import partition_schema
from batchinfer.data.scan import ScannedFile
from batchinfer.data.widen import widen
from batchinfer.errors import InputError
from batchinfer.job.nearest import all_near


@dataclass(frozen=True)
class Unified:
    """The columns that every window has."""

    schema: pa.Schema
    """Every field nullable; no metadata."""
    notes: tuple[str, ...]
    """What was widened, filled with nulls or taken from folder names."""


@dataclass
class _Column:
    kind: pa.DataType
    source: str
    """The file that gave the type."""
    position: int
    missing: int = 0
    first_missing: str = ""


def unify(files: Sequence[ScannedFile], columns: Sequence[str] | None = None) -> Unified:
    """The schema that holds the rows of all files without loss.

    Args:
        files: in input order.
        columns: those needed, in any order; None for all.

    Returns:
        Columns in the order of the first file, then those that later files add, then partition columns.

    Raises:
        InputError: types of a column can't be reconciled, a needed column stands twice in a file, or no file has it.

    """
    wanted = None if columns is None else frozenset(columns)
    partitions = partition_schema([f.file for f in files])
    found: dict[str, _Column] = {}
    notes: list[str] = []
    seen: dict[int, int] = {}
    for number, scanned in enumerate(files):
        if id(scanned.schema) in seen:
            continue
        seen[id(scanned.schema)] = number
        _refuse_duplicates(scanned, wanted)
        for field in scanned.schema:
            if (wanted is None or field.name in wanted) and field.name not in partitions.names:
                _add(found, field, scanned.file.path, notes)
    _count_missing(files, found)
    for name, column in found.items():
        if column.missing:
            notes.append(
                f"column {name!r} is missing in {column.missing} of {len(files)} files, first in {column.first_missing}: read as null"
            )
    fields = [pa.field(name, column.kind) for name, column in found.items()]
    for field in partitions:
        if wanted is not None and field.name not in wanted:
            continue
        fields.append(field)
        if any(field.name in files[n].schema.names for n in seen.values()):
            notes.append(
                f"column {field.name!r} is taken from the folder names (key=value) and not from the files, as polars does"
            )
    _refuse_unknown(columns, fields, files)
    return Unified(pa.schema(fields), tuple(notes))


def _refuse_duplicates(scanned: ScannedFile, wanted: Collection[str] | None) -> None:
    names = scanned.schema.names
    if len(set(names)) == len(names):
        return
    twice = [n for n in dict.fromkeys(names) if names.count(n) > 1 and (wanted is None or n in wanted)]
    if twice:
        raise InputError(
            f"{scanned.file.path}: the column {twice[0]!r} stands {names.count(twice[0])} times; rename one, or don't use it (input.columns)"
        )


def _add(found: dict[str, _Column], field: pa.Field, path: str, notes: list[str]) -> None:
    before = found.get(field.name)
    kind = _without_metadata(field.type)
    if before is None:
        found[field.name] = _Column(kind, path, len(found))
        return
    both = widen(before.kind, kind)
    if both is None:
        raise InputError(
            f"the column {field.name!r} has the type {before.kind} in {before.source}, but {kind} in {path}, and neither holds the values of "
            "the other exactly: write one of them anew with the other's type, or leave the column out (input.columns)"
        )
    if not both.equals(before.kind):
        notes.append(
            f"column {field.name!r} is widened from {before.kind} ({before.source}) to {both}, since {path} has {kind}"
        )
        found[field.name] = _Column(both, path, before.position)
    elif not both.equals(kind):
        notes.append(f"column {field.name!r} is widened from {kind} ({path}) to {both}")


def _count_missing(files: Sequence[ScannedFile], found: dict[str, _Column]) -> None:
    absent: dict[int, list[str]] = {}
    for scanned in files:
        key = id(scanned.schema)
        if key not in absent:
            names = set(scanned.schema.names)
            absent[key] = [name for name in found if name not in names]
        for name in absent[key]:
            column = found[name]
            column.missing += 1
            column.first_missing = column.first_missing or scanned.file.path
    for column in found.values():
        if column.missing:  # Arrow writes no null of a struct whose fields are required
            column.kind = _without_metadata(column.kind, nullable=True)


def _refuse_unknown(columns: Sequence[str] | None, fields: Sequence[pa.Field], files: Sequence[ScannedFile]) -> None:
    have = {f.name for f in fields}
    for name in columns or ():
        if name not in have and files:
            raise InputError(
                f"no input file has the column {name!r}{nearest(name, dict.fromkeys(n for f in files for n in f.schema.names))}"
            )


def nearest(name: str, known: Collection[str]) -> str:
    """The end of a sentence that names the columns closest to `name`."""
    if close := all_near(name, known):
        return f"; did you mean {' or '.join(repr(c) for c in close)}?"
    shown = list(known)[:20]
    return f"; it has {', '.join(repr(k) for k in shown)}{', …' if len(known) > len(shown) else ''}" if shown else ""


def _without_metadata(kind: pa.DataType, *, nullable: bool = False) -> pa.DataType:
    """The same type without the field metadata that Parquet readers leave inside structs; `nullable` at every level, where asked."""
    if isinstance(kind, pa.BaseExtensionType):
        storage = _without_metadata(kind.storage_type, nullable=True) if nullable else kind.storage_type
        return kind if storage.equals(kind.storage_type) else storage
    if pt.is_struct(kind):
        return pa.struct(
            [pa.field(f.name, _without_metadata(f.type, nullable=nullable), f.nullable or nullable) for f in kind]
        )
    if isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
        f = kind.value_field
        item = pa.field(f.name, _without_metadata(f.type, nullable=nullable), f.nullable or nullable)
        if isinstance(kind, pa.FixedSizeListType):
            return pa.list_(item, kind.list_size)
        return pa.large_list(item) if isinstance(kind, pa.LargeListType) else pa.list_(item)
    return kind


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, cast without loss, from a table that was read from one file; a missing column is null.

    Raises:
        pyarrow.ArrowInvalid: a value doesn't fit, which can't happen for a schema made by unify.

    """
    arrays = []
    for field in schema:
        index = table.schema.get_field_index(field.name)
        column = pa.nulls(table.num_rows, field.type) if index < 0 else table.column(index)
        arrays.append(column if column.type.equals(field.type) else _cast(column, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([_cast_array(chunk, kind) for chunk in column.chunks], type=kind)


def _cast_array(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast one array; structs by field name, since Arrow's own cast wants equal fields."""
    if array.type.equals(kind):
        return array
    if pt.is_null(array.type):
        return pa.nulls(len(array), kind)
    if isinstance(array.type, pa.BaseExtensionType) and not isinstance(kind, pa.BaseExtensionType):
        return _cast_array(array.storage, kind)
    if pt.is_dictionary(array.type) and not pt.is_dictionary(kind):
        return _cast_array(array.dictionary_decode(), kind)
    if pt.is_struct(kind):
        children = dict(zip((f.name for f in array.type), array.flatten(), strict=True))
        cast = [
            _cast_array(children[f.name], f.type) if f.name in children else pa.nulls(len(array), f.type) for f in kind
        ]
        mask = pc.is_null(array) if array.null_count else None
        return pa.StructArray.from_arrays(cast, fields=list(kind), mask=mask)
    if isinstance(kind, (pa.ListType, pa.LargeListType)) and pt.is_nested(kind.value_type):
        values = _cast_array(array.flatten(), kind.value_type)
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        ends = pa.array([0, *lengths.cumsum().tolist()], pa.int64())
        offsets = ends.cast(pa.int64() if isinstance(kind, pa.LargeListType) else pa.int32())
        made = pa.LargeListArray if isinstance(kind, pa.LargeListType) else pa.ListArray
        return made.from_arrays(offsets, values, type=kind, mask=pc.is_null(array) if array.null_count else None)
    return array.cast(kind)
