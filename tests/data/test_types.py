"""Types as users write them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from batchinfer.data.types import parse_type


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("float32", pa.float32()),
        (" int64 ", pa.int64()),
        ("string", pa.string()),
        ("large_string", pa.large_string()),
        ("bool", pa.bool_()),
        ("binary", pa.binary()),
        ("date32", pa.date32()),
        ("timestamp[us]", pa.timestamp("us")),
        ("timestamp[ms, tz=Europe/Berlin]", pa.timestamp("ms", "Europe/Berlin")),
        ("timestamp[ns, UTC]", pa.timestamp("ns", "UTC")),
        ("decimal128(10, 2)", pa.decimal128(10, 2)),
        ("decimal(10,2)", pa.decimal128(10, 2)),
        ("decimal256(50, -3)", pa.decimal256(50, -3)),
        ("list<float32>", pa.list_(pa.float32())),
        ("large_list<string>", pa.large_list(pa.string())),
        ("list<list<float32>>", pa.list_(pa.list_(pa.float32()))),
        ("fixed_size_list<float32>[384]", pa.list_(pa.float32(), 384)),
        ("list<fixed_size_list<float32>[4]>", pa.list_(pa.list_(pa.float32(), 4))),
        ("fixed_size_list<list<int8>>[2]", pa.list_(pa.list_(pa.int8()), 2)),
        ("struct<label: string, score: float32>", pa.struct([("label", pa.string()), ("score", pa.float32())])),
        (
            "struct<a: struct<b: decimal128(4, 1), c: list<int8>>, d: string>",
            pa.struct([("a", pa.struct([("b", pa.decimal128(4, 1)), ("c", pa.list_(pa.int8()))])), ("d", pa.string())]),
        ),
        ("list<struct<a: int32>>", pa.list_(pa.struct([("a", pa.int32())]))),
    ],
)
def test_a_type_is_read_as_it_is_written(text: str, kind: pa.DataType) -> None:
    assert parse_type(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "floaty",
        "list<>",
        "list<floaty>",
        "list<float32",
        "struct<>",
        "struct<a>",
        "struct<a int32>",
        "decimal128(50, 2)",
        "decimal128(4, 99999999999999)",
        "fixed_size_list<float32>[99999999999999]",
        "fixed_size_list<float32>[-1]",
        "month_day_nano_interval",
        "list<" * 5000 + "int8" + ">" * 5000,
        "list<" * 17 + "int8" + ">" * 17,
        "timestamp[years]",
    ],
)
def test_what_names_no_type_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        parse_type(text)


@pytest.mark.parametrize("kind", ["float16", "duration[s]", "time64[us]", "uint8", "date64"])
def test_a_type_reads_back_from_its_own_words(kind: str) -> None:
    assert str(parse_type(str(parse_type(kind)))) == str(parse_type(kind))
