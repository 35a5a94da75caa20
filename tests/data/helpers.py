"""Small inputs on disk, and the real files beside the repository where they exist."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.data.inputs import RowRange
from batchinfer.data.reader import Reader, Window
from batchinfer.data.scan import ScannedInput, scan
from batchinfer.data.schema import unify
from batchinfer.data.where import Where

REAL = Path(__file__).parents[2].parent / "shared" / "data"
_INDEX = REAL / "parquet-index.jsonl"
INDEX = [json.loads(line) for line in _INDEX.read_text().splitlines()] if _INDEX.exists() else []


def write(path: Path, table: pa.Table, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def all_ranges(scanned: ScannedInput) -> tuple[RowRange, ...]:
    return tuple(RowRange(f.file, 0, f.file.rows) for f in scanned.files if f.file.rows)


def read_windows(path: object, size: int, sql: str | None = None, columns: list[str] | None = None) -> list[Window]:
    scanned = scan(path if isinstance(path, list) else str(path))
    reader = Reader(unify(scanned.files).schema, Where(sql) if sql else None, columns=columns)
    return list(reader.windows(all_ranges(scanned), size))


def together(windows: list[Window]) -> pa.Table:
    return pa.concat_tables([w.table for w in windows]).unify_dictionaries().combine_chunks()
