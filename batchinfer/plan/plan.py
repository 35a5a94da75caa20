"""From a job to its plan: which files, which columns, which shards. Reads footers and hashes models; imports and runs neither."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from batchinfer.data.inputs import InputFile
from batchinfer.data.part import unstorable
from batchinfer.data.scan import ScannedFile, scan
from batchinfer.data.schema import unify
from batchinfer.data.types import parse_type
from batchinfer.data.where import Where
from batchinfer.engines import checks, fetched, registry
from batchinfer.engines.device import foresee_device
from batchinfer.errors import InputError, JobFileError, Problem
from batchinfer.job.nearest import nearest
from batchinfer.job.spec import JobSpec
from batchinfer.job.steps import RulesStep, Step
from batchinfer.pipeline.graph import Graph, Node, graph_of
from batchinfer.pipeline.graph import check as check_steps
from batchinfer.plan import describe
from batchinfer.plan.fingerprint import Fingerprint, fingerprint
from batchinfer.plan.shards import Shard, auto_sizes, cut
from batchinfer.plan.table import ShowsTable, Table
from batchinfer.precision.artefacts import cache_folder
from batchinfer.storage.kept_bytes import KeptBytes


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


@dataclass(frozen=True, repr=False)
class Plan(ShowsTable):
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
        return graph_of(self.spec).columns

    def _line(self) -> str:
        return f"Plan({self.spec.name!r}: {self.rows:,} rows, {len(self.shards):,} shards → {self.spec.output.path})"

    def table(self) -> Table:
        """See ShowsTable."""
        return describe.to_table(self)


def make_plan(spec: JobSpec) -> Plan:
    """Plan a job.

    Raises:
        InputError: the input matches nothing, can't be read, conflicts with itself, or lacks a column.
        ModelError: a model's files or options aren't what its engine takes.
        StorageError, AccessError: the input, or a model that is to be fetched, can't be read.
        MissingExtraError: an engine's or a store's package isn't installed.
        JobFileError: columns of the output clash, or an output type is unknown.

    """
    check_steps(spec)
    device = foresee_device(spec.resources)
    for step in spec.models:
        checks.check(step, spec.code, device)
    pinned = (registry.pin(s, spec.storage) if isinstance(s, Step) else s for s in spec.steps)
    spec = spec.model_copy(update={"steps": tuple(pinned)})
    for step in spec.models:
        if fetched.remote_uris(step):
            checks.check_model(step, spec.code, device)
    steps = graph_of(spec)
    with ThreadPoolExecutor(1, thread_name_prefix="batchinfer-identify") as pool:
        identities = {s.name: pool.submit(registry.identify, s, spec.code) for s in spec.models}
        where = Where(spec.input.where) if spec.input.where else None
        scanned = scan(spec.input.path, spec.storage, statistics=where.columns if where else (), kept=kept_input(spec))
        names = scanned.columns
        available = _available(names, spec.input.columns)
        carry = _carried(spec, available)
        needed = _needed(spec, steps, carry, available)
        for name in where.columns if where else ():
            _require(name, names, "input.where", "the input")
        unified = unify(scanned.files, _in_input_order(names, {*needed, *(where.columns if where else ())}))
        if where:
            where.check(unified.schema)
        for node in steps.nodes:
            if isinstance(node.step, Step):
                own = steps.read_from_input(node)
                checks.check_columns(node.step, pa.schema([field for field in unified.schema if field.name in own]))
        _check_outputs(spec, carry)
        _check_carried(unified.schema, carry)
        shard_rows, window = _sizes(spec, scanned.files, unified.schema)
        empty = (Shard(0, 0, ()),)  # no rows still make a part, in which readers find the schema
        # A part can be replaced when its file is rewritten, where it holds no rows of others.
        by_file = spec.run.inputs_changed == "extend"
        shards = cut(scanned.files, where, spec.input.limit, shard_rows, by_file=by_file) or empty
        files = tuple(f.file for f in scanned.files)
        reading = Reading(unified.schema, spec.input.where, carry, spec.input.key, window)
        mark = fingerprint(spec, files, {name: future.result() for name, future in identities.items()})
    return Plan(spec, mark, reading, files, shards, sum(f.size for f in files), (*scanned.notes, *unified.notes))


def kept_input(spec: JobSpec) -> KeptBytes | None:
    """Where this machine keeps bytes of remote input files, and what is made of columns; None where the job doesn't ask for it."""
    return None if spec.cache.data is None else KeptBytes(cache_folder() / "data", spec.cache.data)


def _available(names: Sequence[str], asked: tuple[str, ...] | None) -> list[str]:
    for name in asked or ():
        _require(name, names, "input.columns", "the input")
    return [n for n in names if asked is None or n in asked]


def _require(name: str, names: Sequence[str], where: str, what: str, computed: Iterable[str] = ()) -> None:
    """Raise InputError where a name isn't there; `computed` are names that may have been meant, too."""
    if name not in names:
        near = nearest(name, [*names, *computed])
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


def _needed(spec: JobSpec, steps: Graph, carry: Sequence[str], available: Sequence[str]) -> set[str]:
    needed = set(carry)
    if spec.input.key is not None:
        _require(spec.input.key, available, "input.key", "the input")
        needed.add(spec.input.key)
    for node in steps.nodes:
        for column in steps.read_from_input(node):
            _require(column, available, f"{node.name}.{_key(node, column)}", "the input", steps.computed)
            needed.add(column)
    for step in spec.models:
        if step.gate != "off" and step.gate.label is not None:
            _require(step.gate.label, available, f"{step.name}.gate.label", "the input")
            needed.add(step.gate.label)
    _refuse_two_meanings(steps, needed)
    return needed


def _key(node: Node, column: str) -> str:
    """Under which key of a step a column is named."""
    if column not in node.reads:
        return "when"
    return "rules" if isinstance(node.step, RulesStep) else "inputs"


def _refuse_two_meanings(steps: Graph, needed: set[str]) -> None:
    """A column that is read from the input may be computed anew only by the one step that reads it."""
    for node in steps.nodes:
        for column in node.step.computed:
            others = [n.name for n in steps.nodes if n.name != node.name and column in n.consumes]
            if column in needed and column in steps.read_from_input(node) and others:
                raise InputError(
                    f"{node.name}: it reads the column {column!r} and computes it anew, and {', '.join(others)} would read either: give "
                    "the computed one another name"
                )


def _in_input_order(names: Sequence[str], needed: set[str]) -> list[str]:
    return [n for n in names if n in needed] + sorted(needed.difference(names))


def _check_outputs(spec: JobSpec, carry: Sequence[str]) -> None:
    wrong = []
    written = graph_of(spec).columns
    if spec.output.step_used in carry:
        wrong.append(Problem("output.step_used", f"the column {spec.output.step_used!r} is carried from the input too"))
    for step in spec.steps:
        for name, output in step.outputs.items():
            place = f"{step.name}.{'rules' if isinstance(step, RulesStep) else 'outputs'}.{name}"
            if output.column in carry and output.column in written:
                wrong.append(
                    Problem(
                        place,
                        f"the column {output.column!r} is carried from the input too; name the output otherwise, or change output.carry",
                    )
                )
            if output.type is not None:
                try:
                    parse_type(output.type)
                except ValueError as e:
                    wrong.append(Problem(place, str(e)))
    if wrong:
        raise JobFileError(spec.name, wrong)


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
    fixed = all(_is_fixed(schema.field(c).type) for c in graph_of(spec).needed)
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
