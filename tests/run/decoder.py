"""A Python start-up module that has pyarrow die of one row, as a decoder dies of bytes that it doesn't foresee."""

from __future__ import annotations

from pathlib import Path

_SITE = """
import os, signal, time
import pyarrow.parquet as pq

_sound = pq.ParquetFile.iter_batches


def iter_batches(*arguments, **more):
    for batch in _sound(*arguments, **more):
        if "id" in batch.schema.names and {row} in batch["id"].to_pylist():
            {how}
        yield batch


pq.ParquetFile.iter_batches = iter_batches
"""
ABORTS, SEGFAULTS = "os.abort()", "os.kill(os.getpid(), signal.SIGSEGV); time.sleep(60)"
HANGS, FILLS = "time.sleep(3600)", "held = bytearray(1 << 50)"


def site(folder: Path, row: int, how: str = ABORTS) -> str:
    """A folder for PYTHONPATH: every process that has it there does `how` when it decodes the row with this id."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(_SITE.format(row=row, how=how))
    return str(folder / "site")
