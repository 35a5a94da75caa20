"""Dead letters: the rows that could not be predicted, as Parquet, without secrets and without anything that changes from run to run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

import pyarrow as pa

from batchinfer.data.part import PartWriter
from batchinfer.job.secrets import without_addresses, without_credentials

DEAD_LETTER_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("row", pa.int64()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("key", pa.string()),
        ("step", pa.string()),
        ("error_class", pa.string()),
        ("error_type", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("exit_signal", pa.string()),
        ("retryable", pa.bool_()),
        ("resolved_by", pa.string()),
    ]
)

_LONGEST = 2048
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://)[^\s/@'\"]+@"), r"\1[hidden]@"),
    (
        re.compile(
            r"(?i)(\b(?:[a-z0-9_.-]{0,40}[_-])?(?:password|passwd|secret|token|api_?key|access_?key|account_?key|secret_?access_?key)['\"]?\s{0,3}[=:]\s{0,3}['\"]?)[^\s'\",;&]{4,}"
        ),
        r"\1[hidden]",
    ),
)


@dataclass(frozen=True)
class DeadRow:
    """One row of the dead letters; the fields are the columns."""

    shard: int
    row: int
    """Ordinal in the plan, from 0."""
    source_file: str
    source_row: int
    """Row in that file, from 0."""
    key: str | None
    """Value of the job's key column."""
    step: str
    error_class: str
    """Where the error belongs: what failed, not how."""
    error_type: str
    """Name of the exception."""
    message: str
    attempts: int
    exit_signal: str | None = None
    """Such as SIGSEGV, where the row killed its process."""
    retryable: bool = False
    resolved_by: str | None = None
    """What predicted the row after all."""


def to_bytes(rows: Iterable[DeadRow]) -> bytes:
    """Parquet of the rows, sorted by `row`; messages are tidied. Equal rows give equal bytes."""
    ordered = sorted(rows, key=lambda r: (r.row, r.step))
    columns = {f.name: [getattr(row, f.name) for row in ordered] for f in fields(DeadRow)}
    columns["message"] = [tidy(m) for m in columns["message"]]
    writer = PartWriter(DEAD_LETTER_SCHEMA)
    writer.write(pa.table(columns, schema=DEAD_LETTER_SCHEMA))
    return writer.finish({})


def tidy(message: str) -> str:
    """At most 2,048 characters, without memory addresses, credentials and lone surrogates."""
    text = message[: 4 * _LONGEST].encode("utf-8", "replace").decode()
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = without_addresses(without_credentials(text))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
