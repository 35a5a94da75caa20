"""One part and its dead letters against the manifest, the plan, and each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batchinfer.data import part as parquet
from batchinfer.data.dead_letters import DEAD_LETTER_SCHEMA
from batchinfer.data.reader import sources
from batchinfer.errors import InputError, OutputError
from batchinfer.ledger.parts import Decision, Part
from batchinfer.plan.shards import Shard
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store
from batchinfer.verify.findings import ADVICE, Finding, Kind


@dataclass
class Checked:
    """A part, as far as it is sound."""

    shard: Shard
    findings: list[Finding] = field(default_factory=list)
    decision: Decision | None = None
    data: bytes = b""
    bytes: int = 0
    """Of the part and its dead letters."""


def check(store: Store, job: JobPaths, shard: Shard, recorded: Part | None) -> Checked:
    """Read a shard's part and dead letters whole, and compare.

    Args:
        store: the output.
        job: whose part it is.
        shard: as planned.
        recorded: the manifest's line; None before there is a manifest, and then the pages are decoded with their checksums.

    """
    checked = Checked(shard)
    path = job.part(shard.number)
    try:
        data = store.read(path)
    except FileNotFoundError:
        checked.findings.append(Finding(Kind.MISSING, path, "the manifest names this part", ADVICE))
        return checked
    checked.bytes = len(data)
    if recorded is not None and hashlib.sha256(data).hexdigest() != recorded.sha256:
        checked.findings.append(_altered(path, data, shard, recorded))
        return checked
    try:
        footer = parquet.read_footer(data)
        decision = Decision.from_metadata(footer.metadata, path)
        if recorded is None:
            decode(data)
    except (InputError, OutputError, pa.ArrowException, OSError, ValueError) as e:
        text = " ".join(str(e).split()).removeprefix(f"{path}: ")
        checked.findings.append(Finding(Kind.ALTERED, path, f"damaged: {text}", _advice(recorded)))
        return checked
    wrong = [*_against_plan(decision, shard, footer.rows), *_against_manifest(decision, recorded, job)]
    checked.findings += [Finding(Kind.UNSOUND, path, message, _advice(recorded)) for message in wrong]
    if not wrong:
        checked.decision, checked.data = decision, data
        if decision.dead_letters is not None:
            _dead_letters(store, job, checked, decision, decision.dead_letters)
    return checked


def decode(data: bytes) -> pa.Table:
    """Every page of a Parquet file in memory, each against its checksum, every value validated. Raises OSError, ValueError, ArrowException."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    table = file.read()
    table.validate(full=True)
    return table


def _advice(recorded: Part | None) -> str:
    """A part of a finished job is final; one of an unfinished job is made again when it is gone."""
    return ADVICE if recorded is not None else "delete it and run the same command again, which makes it anew"


def _altered(path: str, data: bytes, shard: Shard, recorded: Part) -> Finding:
    message = "its SHA-256 isn't the manifest's"
    if len(data) != recorded.bytes:
        message = f"it has {len(data):,} bytes instead of {recorded.bytes:,}"
    try:
        decision = Decision.from_metadata(parquet.read_footer(data).metadata, path)
    except (InputError, OutputError):
        return Finding(Kind.ALTERED, path, message, ADVICE)
    if decision.shard != shard.number:
        message = f"this is the part of shard {decision.shard}: were files swapped?"
        return Finding(Kind.ALTERED, path, message, "give the parts the names that they had")
    return Finding(Kind.ALTERED, path, message, ADVICE)


def _against_plan(decision: Decision, shard: Shard, rows: int) -> Iterator[str]:
    counts = decision.counts
    if decision.shard != shard.number:
        yield f"its footer says that it is of shard {decision.shard}"
        return
    if (decision.first, counts.planned) != (shard.first, shard.rows):
        yield (
            f"its footer says {counts.planned:,} rows from row {decision.first:,} on, "
            f"the plan {shard.rows:,} from {shard.first:,} on"
        )
        return
    if rows != counts.succeeded or (counts.not_attempted and not shard.retries):  # a retry may have been given up
        yield f"it has {rows:,} rows, and its footer says that {counts.succeeded:,} of {counts.planned:,} succeeded"
    absent = np.concatenate((decision.dead, decision.filtered))
    if len(np.unique(absent)) != len(absent) or (len(absent) and not 0 <= absent.min() <= absent.max() < shard.rows):
        yield "its footer names rows as dead or filtered twice, or rows that the shard hasn't"
    elif len(np.setdiff1d(_pruned(shard), decision.filtered, assume_unique=True)):
        yield "rows that the plan ruled out by `where` are not among those that its footer calls filtered"


def _pruned(shard: Shard) -> NDArray[np.int64]:
    """Ordinals of the rows that the plan doesn't even read."""
    ends = np.cumsum([r.rows for r in shard.ranges], dtype=np.int64)
    spans = [
        np.arange(end - r.rows, end, dtype=np.int64) for r, end in zip(shard.ranges, ends, strict=True) if r.pruned
    ]
    return np.concatenate(spans) if spans else np.empty(0, np.int64)


def _against_manifest(decision: Decision, recorded: Part | None, job: JobPaths) -> Iterator[str]:
    if recorded is None:
        return
    if decision.counts != recorded.counts:
        yield f"its footer counts {decision.counts}, the manifest {recorded.counts}"
    named = decision.dead_letters and job.dead_letters(decision.shard, decision.dead_letters[:12])
    if named != recorded.dead_letters:
        yield f"its footer names the dead letters {named}, the manifest {recorded.dead_letters}"


def _dead_letters(store: Store, job: JobPaths, checked: Checked, decision: Decision, sha256: str) -> None:
    path = job.dead_letters(decision.shard, sha256[:12])

    def found(kind: Kind, message: str) -> None:
        checked.findings.append(Finding(kind, path, message, ADVICE))

    try:
        data = store.read(path)
    except FileNotFoundError:
        found(Kind.MISSING, f"the dead letters of {decision.counts.dead:,} rows; the part's footer names them")
        return
    checked.bytes += len(data)
    if hashlib.sha256(data).hexdigest() != sha256:
        found(Kind.ALTERED, "its SHA-256 isn't the one in the part's footer")
        return
    try:
        table = decode(data)
    except (pa.ArrowException, OSError, ValueError) as e:
        found(Kind.UNSOUND, f"it can't be read: {' '.join(str(e).split())}")
        return
    if not table.schema.remove_metadata().equals(DEAD_LETTER_SCHEMA) or not _tells(table, decision, checked.shard):
        found(Kind.UNSOUND, "its rows aren't those that the part's footer calls dead")


def _tells(letters: pa.Table, decision: Decision, shard: Shard) -> bool:
    """Whether the dead letters are those of the dead rows, each with the place in the input that the plan gives it."""
    dead = decision.dead.tolist()
    rows = shard.job_rows()[decision.dead].tolist()
    expected = [(shard.number, row, *place) for row, place in zip(rows, sources(shard.ranges, dead), strict=True)]
    columns = ("shard", "row", "source_file", "source_row")
    return list(zip(*(letters[c].to_pylist() for c in columns), strict=True)) == expected
