"""Files of an output found, changed, and made to look as if they had been written so."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.data.part import PREFIX, PartWriter
from batchinfer.ledger import records
from batchinfer.verify.findings import Kind, Verification


def files(output: Path, pattern: str) -> list[Path]:
    """Those that match, of which there must be some."""
    found = sorted(output.glob(pattern))
    assert found
    return found


def kinds(verification: Verification) -> list[tuple[Kind, str]]:
    """What was found, and the names of the files."""
    return [(f.kind, f.path.rpartition("/")[2]) for f in verification.findings]


def reseal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a record and seal it anew."""
    value = records.from_bytes(path.read_bytes(), "")
    change(value)
    path.write_bytes(records.to_bytes(value))


def rewrite(output: Path, part: Path, change: Callable[[pa.Table, dict[str, str]], pa.Table]) -> None:
    """Write a part anew with other content and have the manifest say that this is right."""
    old = pq.ParquetFile(part)
    metadata = {
        k.decode().removeprefix(PREFIX): v.decode() for k, v in old.metadata.metadata.items() if k.startswith(b"batch")
    }
    table = change(old.read().replace_schema_metadata(None), metadata)
    writer = PartWriter(table.schema)
    writer.write(table)
    part.write_bytes(writer.finish(metadata))
    recorded = digest_of(part)

    def name_it(manifest: dict[str, Any]) -> None:
        (line,) = [p for p in manifest["parts"] if p["path"].endswith(part.name)]
        line |= {"sha256": recorded, "bytes": part.stat().st_size}

    (manifest,) = files(output, "_batchinfer/*/manifests/0001.json")
    reseal(manifest, name_it)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
