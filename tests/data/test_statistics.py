"""Statistics that Arrow would end the process for, or take for others: they are not used, and the rows are read."""

from __future__ import annotations

import datetime
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.data.scan import scan
from batchinfer.data.statistics import UNKNOWN, ColumnStats, Written, of_chunk
from tests.data.damage import footer_of, read_apart, with_footer

COLUMNS = {
    "int64": pa.array([0x1122334455667788, 0x1122334455667799]),
    "int32": pa.array([0x11223344, 0x11223355], pa.int32()),
    "uint8": pa.array([200, 201], pa.uint8()),
    "double": pa.array([1.1, 2.2]),
    "float": pa.array([1.5, 2.5], pa.float32()),
    "day": pa.array([datetime.date(2020, 1, 1), datetime.date(2020, 2, 2)]),
    "at": pa.array([1577836800000000, 1580601600000000], pa.timestamp("us")),
    "fixed": pa.array([b"abcdefgh", b"ijklmnop"], pa.binary(8)),
    "price": pa.array([Decimal("1.25"), Decimal("3.75")], pa.decimal128(30, 2)),
    "text": pa.array(["abcdefgh", "ijklmnop"]),
    "flag": pa.array([False, True]),
}


def bounds(kind: str) -> tuple[bytes, bytes]:
    """The lowest and the highest value, as a footer holds them."""
    values = COLUMNS[kind]
    match values.type:
        case t if pa.types.is_decimal(t):
            low, high = (int(v * 100).to_bytes(13, "big") for v in values.to_pylist())
        case t if pa.types.is_string(t) or pa.types.is_fixed_size_binary(t):
            low, high = (v.cast(pa.binary()).as_py() for v in values)
        case t if pa.types.is_boolean(t):
            low, high = b"\x00", b"\x01"
        case t if pa.types.is_uint8(t):
            low, high = (v.as_py().to_bytes(4, "little") for v in values)
        case _:
            width = values.type.bit_width // 8
            data = values.buffers()[1].to_pybytes()
            low, high = data[:width], data[width : 2 * width]
    return low, high


def field(header: int, value: bytes) -> bytes:
    return bytes([header, len(value)]) + value


def edited(kind: str, edit: Callable[[bytes, bytes, bytes], bytes]) -> bytes:
    """A file with one column, in whose footer the bounds of today (fields 5 and 6 of the statistics) are replaced."""
    out = io.BytesIO()
    pq.write_table(pa.table({"x": COLUMNS[kind]}), out, use_dictionary=False, compression="none")
    data = out.getvalue()
    footer = data[slice(*footer_of(data))]
    low, high = bounds(kind)
    written = field(0x28, high) + field(0x18, low)
    assert footer.count(written) == 1
    return with_footer(data, edit(footer, low, high))


def both(low: bytes, high: bytes) -> bytes:
    return field(0x28, high) + field(0x18, low)


EDITS: dict[str, Callable[[bytes, bytes, bytes], bytes]] = {
    "short": lambda f, low, high: f.replace(both(low, high), both(low[:-1], high[:-1])),
    "one short": lambda f, low, high: f.replace(both(low, high), both(low, high[:1])),
    "long": lambda f, low, high: f.replace(both(low, high), both(low + b"\0", high + b"\0")),
    "empty": lambda f, low, high: f.replace(both(low, high), both(b"", b"")),
    "no low": lambda f, low, high: f.replace(both(low, high), field(0x28, high)),
    "no high": lambda f, low, high: f.replace(both(low, high), field(0x38, low)),
    "a number": lambda f, low, high: f.replace(both(low, high), b"\x25\x02" + b"\x15\x02"),
    "twice": lambda f, low, high: f.replace(both(low, high), both(low, high) + b"\x08\x0a" + field(0, high)[1:]),
}


@pytest.mark.parametrize("edit", sorted(EDITS))
def test_bounds_that_cant_be_are_not_used_and_end_no_process(tmp_path: Path, edit: str) -> None:
    kinds = [k for k in COLUMNS if k != "text" or edit in ("no low", "no high", "a number", "twice")]
    kinds = [k for k in kinds if k != "flag" or edit != "one short"]
    files = []
    for kind in kinds:
        files.append(tmp_path / f"{kind}.parquet")
        files[-1].write_bytes(edited(kind, EDITS[edit]))
    outcomes = read_apart(files)
    assert len(outcomes) == len(files)
    assert set(outcomes) <= {"rows", "refused"}  # Arrow looks at some of them when it reads the pages, too
    for file in files:
        (group,) = scan(str(file), statistics=["x"]).files[0].row_groups
        assert (group.statistics["x"].low, group.statistics["x"].high) == (None, None), file


@pytest.mark.parametrize("kind", sorted(COLUMNS))
def test_bounds_as_they_were_written_are_used(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(edited(kind, lambda footer, low, high: footer))
    (group,) = scan(str(file), statistics=["x"]).files[0].row_groups
    low, high = COLUMNS[kind].to_pylist()
    assert group.statistics["x"] == ColumnStats(low, high, 0)


def test_a_chunk_of_another_type_than_its_column_has_no_statistics(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    meta = b"\x1c\x15\x04\x19"  # field 3 of a chunk, whose first field is the type: INT64
    file.write_bytes(edited("int64", lambda f, low, high: f.replace(meta, meta.replace(b"\x04", b"\x08"))))
    assert read_apart([file])[0] in ("rows", "refused")
    if read_apart([file]) == ["rows"]:
        assert scan(str(file), statistics=["x"]).files[0].row_groups[0].statistics["x"] == UNKNOWN


@dataclass
class Said:
    """What Arrow decodes of a chunk's statistics."""

    min: Any
    max: Any
    null_count: Any


class Chunk:
    """A column chunk with these statistics."""

    is_stats_set = True

    def __init__(self, low: Any, high: Any, nulls: Any) -> None:
        self.statistics = Said(low, high, nulls)


@pytest.mark.parametrize(
    ("low", "high", "nulls", "expected"),
    [
        (1, 2, 3, ColumnStats(1, 2, 3)),
        (2, 2, 10, ColumnStats(2, 2, 10)),
        (1, 2, None, ColumnStats(1, 2, None)),
        (1, 2, 11, UNKNOWN),  # of ten rows
        (1, 2, -1, UNKNOWN),
        (2, 1, 0, ColumnStats(None, None, 0)),
        (math.nan, 2.0, 0, ColumnStats(None, None, 0)),
        (1.0, math.nan, 0, ColumnStats(None, None, 0)),
        (None, None, 4, ColumnStats(None, None, 4)),
    ],
)
def test_of_what_arrow_decodes_only_what_can_be_is_used(low: Any, high: Any, nulls: Any, expected: ColumnStats) -> None:
    assert of_chunk(Chunk(low, high, nulls), rows=10) == expected


@pytest.mark.parametrize("kind", ["int64", "double", "day"])
@pytest.mark.parametrize("cut", [0, 1, 8])
def test_bounds_as_they_were_first_written_are_looked_at_too(kind: str, cut: int) -> None:
    low, high = bounds(kind)
    first = field(0x18, high) + field(0x18, low)
    short = field(0x18, high[cut:]) + field(0x18, low[cut:])
    out = io.BytesIO()
    pq.write_table(pa.table({"x": COLUMNS[kind]}), out, use_dictionary=False, compression="none")
    footer = out.getvalue()[slice(*footer_of(out.getvalue()))]
    assert footer.count(first) == 1
    leaf = pq.ParquetFile(out).schema.column(0)
    assert Written(footer.replace(first, short)).sound(0, 0, leaf) is (cut == 0)


@pytest.mark.parametrize("edit", ["no low", "no high"])
def test_one_bound_alone_is_not_sound(edit: str) -> None:
    data = edited("int64", EDITS[edit])
    leaf = pq.ParquetFile(io.BytesIO(edited("int64", lambda footer, low, high: footer))).schema.column(0)
    assert not Written(data[slice(*footer_of(data))]).sound(0, 0, leaf)
