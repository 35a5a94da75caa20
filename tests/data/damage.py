"""Damaged Parquet, and a process that reads it: `python -m tests.data.damage FOLDER` prints what came of each file."""

from __future__ import annotations

import io
import random
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.data.reader import Reader
from batchinfer.data.scan import scan
from batchinfer.data.schema import unify
from batchinfer.errors import InputError
from tests.data.helpers import all_ranges

ROWS = 60
TABLE = pa.table(
    {
        "id": pa.array(range(ROWS), pa.int64()),
        "text": [f"text {n % 7}" for n in range(ROWS)],
        "x": pa.array([float(n) for n in range(ROWS)]),
        "list": [[n] * (n % 3) for n in range(ROWS)],
        "struct": [{"a": n, "b": str(n)} for n in range(ROWS)],
        "small": pa.array([n % 100 for n in range(ROWS)], pa.uint8()),
        "flag": [n % 2 == 0 for n in range(ROWS)],
        "price": pa.array([Decimal(n) / 4 for n in range(ROWS)], pa.decimal128(20, 2)),
        "at": pa.array(range(ROWS), pa.timestamp("us")),
    }
)
LAYOUTS: tuple[dict[str, Any], ...] = (
    {},
    {"compression": "none", "use_dictionary": False},
    {"compression": "zstd", "write_page_checksum": True},
    {"compression": "gzip", "data_page_version": "2.0"},
    {"compression": "none", "store_schema": False},
    {"row_group_size": 10, "write_page_index": True},
)


def sound(**layout: Any) -> bytes:
    """A file that can be read."""
    out = io.BytesIO()
    pq.write_table(TABLE, out, **layout)
    return out.getvalue()


def footer_of(data: bytes) -> tuple[int, int]:
    """Where the footer begins and ends."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data) - 8


def with_footer(data: bytes, footer: bytes) -> bytes:
    """The file with another footer."""
    return data[: footer_of(data)[0]] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def damaged(data: bytes, edits: Sequence[tuple[str, int, bytes]], *, in_footer: bool) -> bytes:
    """The file with bytes flipped, replaced, put in or taken out, in the footer or before it."""
    start, stop = footer_of(data)
    body, footer = data[:start], data[start:stop]
    part = bytearray(footer if in_footer else body)
    for how, where, given in edits:
        at = where % max(1, len(part))
        match how:
            case "flip":
                part[at : at + 1] = bytes([part[at] ^ (1 << given[0] % 8)]) if part else b""
            case "replace":
                part[at : at + len(given)] = given
            case "insert":
                part[at:at] = given
            case _:
                del part[at : at + len(given)]
    return with_footer(data, bytes(part)) if in_footer else with_footer(bytes(part) + data[start:], footer)


def at_random(seed: int) -> bytes:
    """A file damaged in a few places."""
    chance = random.Random(seed)
    edits = [
        (
            chance.choice(["flip", "flip", "replace", "replace", "insert", "remove"]),
            chance.randrange(1 << 20),
            bytes(
                chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)]) for _ in range(chance.choice([1, 1, 4]))
            ),
        )
        for _ in range(chance.choice([1, 1, 2, 3, 8]))
    ]
    return damaged(sound(**chance.choice(LAYOUTS)), edits, in_footer=chance.random() < 0.7)


def read_apart(files: Sequence[Path], seconds: float = 120) -> list[str]:
    """What came of each file: `rows`, `refused`, or what should not be."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.damage", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        cwd=Path(__file__).parents[2],
    )
    outcomes = done.stdout.splitlines()
    if done.returncode != 0:
        outcomes.append(f"died with {done.returncode} of {files[len(outcomes)].name}: {done.stderr[-500:]}")
    return outcomes


def _outcomes(files: Sequence[str]) -> Iterator[str]:
    for file in files:
        before = _peak()
        try:
            scanned = scan(file)
            scan(file, statistics=scanned.columns)
            list(Reader(unify(scanned.files).schema).windows(all_ranges(scanned), 50))
        except InputError as e:
            outcome = "refused" if file in str(e) else f"unnamed: {e}"
        except Exception as e:
            outcome = f"raised {type(e).__name__}: {e}".replace("\n", " ")
        else:
            outcome = "rows"
        taken = _peak() - before
        yield outcome if taken < 600 * 2**20 else f"took {taken:,} bytes"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in _outcomes(sys.argv[1:]):
        print(line, flush=True)
