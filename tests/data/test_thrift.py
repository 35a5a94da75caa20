"""Footers as our own reader of Thrift sees them, beside what Arrow says of the same bytes."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.data import thrift
from tests.data.damage import LAYOUTS, footer_of, sound


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_footer_holds_what_arrow_finds_in_it(layout: dict[str, Any]) -> None:
    data = sound(**layout)
    metadata = pq.read_metadata(io.BytesIO(data))
    footer = thrift.parse(data[slice(*footer_of(data))])
    assert footer[3] == metadata.num_rows
    assert footer[6].decode() == metadata.created_by
    assert {m[1]: m[2] for m in footer[5]} == metadata.metadata if metadata.metadata else 5 not in footer
    assert len(footer[4]) == metadata.num_row_groups
    for g, group in enumerate(footer[4]):
        assert (group[2], group[3]) == (metadata.row_group(g).total_byte_size, metadata.row_group(g).num_rows)
        for c, chunk in enumerate(group[1]):
            found, said = chunk[3], metadata.row_group(g).column(c)
            assert b".".join(found[3]).decode() == said.path_in_schema
            assert (found[5], found[7], found[9]) == (
                said.num_values,
                said.total_compressed_size,
                said.data_page_offset,
            )
            assert found[12].get(3) == said.statistics.null_count
            if isinstance(said.statistics.min_raw, bytes):
                assert (found[12][6], found[12][5]) == (said.statistics.min_raw, said.statistics.max_raw)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x00", {}),
        (b"\x15\x02\x11\x12\x00", {1: 1, 2: True, 3: False}),
        (b"\x16\x01\x00", {1: -1}),
        (b"\x06\x88\x02\x01\x00", {132: -1}),
        (b"\x13\xff\x00", {1: 255}),
        (b"\x17ABCDEFGH\x00", {1: b"ABCDEFGH"}),
        (b"\x19\x21\x01\x02\x00", {1: [1, 2]}),
        (b"\x1a\xf5\x01\x02\x00", {1: [1]}),
        (b"\x1b\x00\x00", {1: []}),
        (b"\x1b\x01\x85\x01k\x02\x00", {1: [(b"k", 1)]}),
        (b"\x1c\x15\x02\x00\x00and more", {1: {1: 1}}),
    ],
)
def test_each_type_is_read(data: bytes, value: object) -> None:
    assert thrift.parse(data) == value


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_is_not_wanted_is_skipped(layout: dict[str, Any]) -> None:
    data = sound(**layout)
    footer = data[slice(*footer_of(data))]
    whole = thrift.parse(footer)
    some = thrift.parse(footer, {1: None, 4: {1: {3: {9: None, 12: {3: None}}}}})
    assert list(some) == list(whole)
    assert (some[1], some[2], some[3]) == (whole[1], None, None)
    for got, group in zip(some[4], whole[4], strict=True):
        assert got[2] is None
        for chunk, expected in zip(got[1], group[1], strict=True):
            assert {n: v for n, v in chunk[3].items() if v is not None} == {
                9: expected[3][9],
                12: {n: v if n == 3 else None for n, v in expected[3][12].items()},
            }
    assert thrift.parse(footer, {}) == dict.fromkeys(whole)


@pytest.mark.parametrize(
    "skipped", [b"\x19\x21\x01\x02", b"\x1b\x01\x81\x01k\x01", b"\x13\x05", b"\x17ABCDEFGH", b"\x11"]
)
def test_every_type_is_skipped(skipped: bytes) -> None:
    assert thrift.parse(skipped + b"\x15\x02\x00", {2: None}) == {1: None, 2: 1}
    assert thrift.parse(b"\x1c" + skipped + b"\x00\x15\x02\x00", {2: None}) == {1: None, 2: 1}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x15",
        b"\x15\x80",
        b"\x15\x02\x05\x02\x02\x00",
        b"\x16" + b"\xff" * 10 + b"\x01\x00",
        b"\x18\x05abc\x00",
        b"\x19\xf5\xff\xff\xff\xff\x0f\x00",
        b"\x1e\x00\x00",
        b"\x1c" * 5000,
    ],
    ids=str,
)
def test_what_is_no_struct_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        thrift.parse(data)


@pytest.mark.parametrize(
    "data", [b"\x15\x80", b"\x18\x05abc\x00", b"\x17ABC", b"\x1e\x00\x00", b"\x1c" * 5000], ids=str
)
def test_what_cant_be_skipped_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        thrift.parse(data, {})


@given(data=st.binary(max_size=60))
def test_any_bytes_give_a_struct_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(thrift.parse(data), dict)
