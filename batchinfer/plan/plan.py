"""From a job to its plan: which files, which columns, which shards. Reads footers and hashes models; imports and runs neither."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from batchinfer.data.inputs import InputFile
from batchinfer.data.part import unstorable
from batchinfer.data.scan import ScannedFile, scan
from batchinfer.data.schema import unify
from batchinfer.data.types import parse_type
from batchinfer.data.where import Where
from batchinfer.engines import checks, registry
from batchinfer.engines.device import foresee_device
from batchinfer.errors import InputError, JobFileError, Problem
from batchinfer.job.place import nearest
from batchinfer.job.spec import JobSpec, Step
from batchinfer.plan import describe
from batchinfer.plan.fingerprint import Fingerprint, fingerprint
from batchinfer.plan.shards import Shard, auto_sizes, cut


@dataclass(frozen=True)
class Reading:
    """What a worker reads of each row, and what it carries into the output."""

    schema: pa.Schema
    """Columns that are read, with the types that all files are brought to; hive partitions among them."""
    where: str | None
    carry: tuple[str, ...]
    """Columns of the output that come from the input, in input order."""
    key: str | None
    window: int
    """Rows of a window."""


@dataclass(frozen=True)
class Plan:
    """What will be done."""

    spec: JobSpec
    fingerprint: Fingerprint
    reading: Reading
    files: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    bytes: int
    """Size of the input files."""
    notes: tuple[str, ...] = ()
    """What the user should know: columns filled with nulls, types widened, files passed over."""

    @property
    def rows(self) -> int:
        """Planned rows: those of the pinned ranges, after `limit` and before `where`."""
        return sum(s.rows for s in self.shards)

    @property
    def pruned(self) -> int:
        """Rows that statistics rule out, without reading them."""
        return sum(r.rows for s in self.shards for r in s.ranges if r.pruned)

    @property
    def windows(self) -> int:
        """Windows over all shards."""
        return sum(-(-s.rows // self.reading.window) for s in self.shards)

    @property
    def computed(self) -> tuple[str, ...]:
        """Columns of the output that come from the steps."""
        return tuple(o.column for s in self.spec.steps for o in s.outputs.values())

    def __repr__(self) -> str:
        return f"Plan({self.spec.name!r}: {self.rows:,} rows, {len(self.shards):,} shards → {self.spec.output.path})"

    def _repr_html_(self) -> str:
        return describe.to_html(self)


def make_plan(spec: JobSpec) -> Plan:
    """Plan a job.

    Raises:
        InputError: the input matches nothing, can't be read, conflicts with itself, or lacks a column.
        ModelError: a model's files or options aren't what its engine takes.
        MissingExtraError: an engine's or a store's package isn't installed.
        JobFileError: columns of the output clash, or an output type is unknown.

    """
    for step in spec.steps:
        checks.check(step, spec.code, foresee_device(spec.resources))
    spec = spec.model_copy(update={"steps": tuple(registry.pin(s) for s in spec.steps)})
    with ThreadPoolExecutor(1, thread_name_prefix="batchinfer-identify") as pool:
        identities = {s.name: pool.submit(registry.identify, s, spec.code) for s in spec.steps}
        where = Where(spec.input.where) if spec.input.where else None
        scanned = scan(spec.input.path, spec.storage, statistics=where.columns if where else ())
        names = scanned.columns
        available = _available(names, spec.input.columns)
        carry = _carried(spec, available)
        needed = _needed(spec, carry, available)
        for name in where.columns if where else ():
            _require(name, names, "input.where", "the input")
        unified = unify(scanned.files, _in_input_order(names, {*needed, *(where.columns if where else ())}))
        if where:
            where.check(unified.schema)
        _check_outputs(spec, carry)
        _check_carried(unified.schema, carry)
        shard_rows, window = _sizes(spec, scanned.files, unified.schema)
        empty = (Shard(0, 0, ()),)  # no rows still make a part, in which readers find the schema
        shards = cut(scanned.files, where, spec.input.limit, shard_rows) or empty
        files = tuple(f.file for f in scanned.files)
        reading = Reading(unified.schema, spec.input.where, carry, spec.input.key, window)
        mark = fingerprint(spec, files, {name: future.result() for name, future in identities.items()})
    return Plan(spec, mark, reading, files, shards, sum(f.size for f in files), (*scanned.notes, *unified.notes))


def input_columns(step: Step) -> list[str]:
    """The columns that a step reads, each once, in the order of its inputs."""
    columns = [c for value in step.inputs.values() for c in ([value] if isinstance(value, str) else value)]
    return list(dict.fromkeys(columns))


def _available(names: Sequence[str], asked: tuple[str, ...] | None) -> list[str]:
    for name in asked or ():
        _require(name, names, "input.columns", "the input")
    return [n for n in names if asked is None or n in asked]


def _require(name: str, names: Sequence[str], where: str, what: str) -> None:
    if name not in names:
        near = nearest(name, names)
        advice = (
            f"did you mean {near!r}?"
            if near
            else f"it has {', '.join(map(repr, names[:12]))}{', …' if len(names) > 12 else ''}"
        )
        raise InputError(f"{where}: {what} has no column {name!r}; {advice}")


def _carried(spec: JobSpec, available: Sequence[str]) -> tuple[str, ...]:
    if spec.carry == "none":
        return ()
    if spec.carry == "all":
        return tuple(available)
    asked = (spec.input.key or "",) if spec.carry == "key" else spec.carry
    for name in asked:
        _require(name, available, "input.key" if spec.carry == "key" else "output.carry", "the input")
    return tuple(n for n in available if n in asked)


def _needed(spec: JobSpec, carry: Sequence[str], available: Sequence[str]) -> set[str]:
    needed = set(carry)
    if spec.input.key is not None:
        _require(spec.input.key, available, "input.key", "the input")
        needed.add(spec.input.key)
    for step in spec.steps:
        for column in input_columns(step):
            _require(column, available, f"{step.name}.inputs", "the input")
            needed.add(column)
        if step.gate != "off" and step.gate.label is not None:
            _require(step.gate.label, available, f"{step.name}.gate.label", "the input")
            needed.add(step.gate.label)
    return needed


def _in_input_order(names: Sequence[str], needed: set[str]) -> list[str]:
    return [n for n in names if n in needed] + sorted(needed.difference(names))


def _check_outputs(spec: JobSpec, carry: Sequence[str]) -> None:
    problems = []
    for step in spec.steps:
        for name, output in step.outputs.items():
            place = f"{step.name}.outputs.{name}"
            if output.column in carry:
                problems.append(
                    Problem(
                        place,
                        f"the column {output.column!r} is carried from the input too; name the output otherwise, or change output.carry",
                    )
                )
            if output.type is not None:
                try:
                    parse_type(output.type)
                except ValueError as e:
                    problems.append(Problem(place, str(e)))
    if problems:
        raise JobFileError(spec.name, problems)


def _check_carried(schema: pa.Schema, carry: Sequence[str]) -> None:
    for name in carry:
        kind = schema.field(name).type
        why = unstorable(schema.field(name)) if pa.types.is_nested(kind) or pa.types.is_dictionary(kind) else None
        if why is not None:
            raise InputError(
                f"output.carry: the column {name!r} is {kind}, which can be read from Parquet but not written to it ({why}): "
                "leave it out of output.carry"
            )


def _sizes(spec: JobSpec, files: Sequence[ScannedFile], schema: pa.Schema) -> tuple[int, int]:
    """Rows of a shard and of a window: as asked, else from the footers; a shard is a whole number of windows."""
    fixed = all(_is_fixed(schema.field(c).type) for s in spec.steps for c in input_columns(s))
    shard, window = auto_sizes(files, schema.names, numeric=fixed)
    if spec.batching.window != "auto":
        window = spec.batching.window
    if spec.batching.shard != "auto":
        shard = spec.batching.shard
        window = min(window, shard) if spec.batching.window == "auto" else window
    return max(window, shard // window * window) if spec.batching.shard == "auto" else shard, window


def _is_fixed(kind: pa.DataType) -> bool:
    """Whether every value takes the same room, so that windows can be large."""
    return bool(
        pa.types.is_primitive(kind) or (pa.types.is_fixed_size_list(kind) and pa.types.is_primitive(kind.value_type))
    )
