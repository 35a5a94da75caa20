from __future__ import annotations

import base64
import contextlib
import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.data import ordinals
from batchinfer.data.dead_letters import DEAD_LETTER_SCHEMA, DeadRow, tidy, to_bytes
from batchinfer.data.part import PartWriter, fetch_footer, read_footer
from batchinfer.errors import InputError
from batchinfer.storage.store import open_store

TABLE = pa.table(
    {
        "id": pa.array(range(100)),
        "text": [None if i % 7 == 0 else f"tëxt {i % 9}" for i in range(100)],
        "kind": pa.array([f"k{i % 3}" for i in range(100)]).dictionary_encode(),
        "vector": pa.array([None if i % 5 == 0 else [i, i + 0.5] for i in range(100)], pa.list_(pa.float32(), 2)),
        "tags": pa.array([None if i % 4 == 0 else ["a"] * (i % 3) for i in range(100)], pa.list_(pa.string())),
    }
)


def part(pieces: list[pa.Table], rows: int = 30) -> bytes:
    writer = PartWriter(TABLE.schema, row_group_rows=rows)
    for piece in pieces:
        writer.write(piece)
    return writer.finish({"b": "2", "a": "ü"})


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 100), max_size=8))
def test_equal_rows_give_equal_bytes_however_they_arrive(cuts: list[int]) -> None:
    borders = [0, *sorted(cuts), 100]
    pieces = [TABLE.slice(a, b - a) for a, b in itertools.pairwise(borders)]
    own_dictionaries = [p.set_column(2, "kind", p["kind"].cast(pa.string()).dictionary_encode()) for p in pieces]
    assert part(pieces) == part([TABLE])
    assert part(own_dictionaries) == part([TABLE])


def test_a_part_has_fixed_row_groups_checksums_and_its_metadata() -> None:
    data = part([TABLE])
    metadata = pq.read_metadata(io.BytesIO(data))
    assert [metadata.row_group(i).num_rows for i in range(4)] == [30, 30, 30, 10]
    columns = {metadata.row_group(0).column(i).path_in_schema: metadata.row_group(0).column(i) for i in range(5)}
    assert [n for n, c in columns.items() if "RLE_DICTIONARY" in c.encodings] == ["text", "kind", "tags.list.element"]
    assert [n for n, c in columns.items() if not c.is_stats_set] == ["vector.list.element"]
    assert pq.read_table(io.BytesIO(data), page_checksum_verification=True).equals(TABLE.unify_dictionaries())
    footer = read_footer(data)
    assert footer.metadata == {"a": "ü", "b": "2"}
    assert (footer.rows, footer.size) == (100, len(data))


def test_an_empty_part_has_the_schema_and_another_schema_is_refused() -> None:
    assert pq.read_table(io.BytesIO(part([]))).equals(TABLE.schema.empty_table())
    with pytest.raises(ValueError, match="can't go into a part"):
        PartWriter(TABLE.schema).write(TABLE.select(["id"]))


def test_the_footer_of_a_stored_part_is_read_from_its_tail(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    data = part([TABLE])
    store.put("data/p.parquet", data)
    assert fetch_footer(store, "data/p.parquet", len(data)) == read_footer(data)
    with pytest.raises(InputError, match="gone"):
        fetch_footer(store, "data/q.parquet", 100)
    with pytest.raises(InputError):
        read_footer(data[:-1])


@given(st.sets(st.integers(0, 5000)))
def test_ordinals_come_back_as_they_went(numbers: set[int]) -> None:
    array = np.array(sorted(numbers), np.int64)
    assert ordinals.decode(ordinals.encode(array)).tolist() == array.tolist()


def test_ordinals_are_short_whether_sparse_dense_or_mixed() -> None:
    everything = np.arange(1_000_000, dtype=np.int64)
    assert len(ordinals.encode(everything)) < 10
    assert len(ordinals.encode(np.array([5, 999_999_999_999], np.int64))) < 24
    mixed = np.flatnonzero(np.random.default_rng(0).random(1_000_000) < 0.5).astype(np.int64)
    assert len(ordinals.encode(mixed)) <= 166_672
    assert ordinals.decode(ordinals.encode(mixed)).tolist() == mixed.tolist()
    for wrong in ([3, 3], [4, 2], [-1]):
        with pytest.raises(ValueError, match="ascend"):
            ordinals.encode(np.array(wrong, np.int64))


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=30) | st.binary(max_size=20).map(lambda b: "r" + base64.b64encode(b).decode()))
def test_any_text_decodes_or_is_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert ordinals.decode(text).dtype == np.int64


def test_dead_letters_are_sorted_and_equal_for_equal_rows() -> None:
    rows = [
        DeadRow(0, n, "/in/a.parquet", n, None, "model", "model", "ValueError", f"bad {n}", 2, "SIGSEGV" if n else None)
        for n in (3, 0, 7)
    ]
    data = to_bytes(rows)
    assert data == to_bytes(reversed(rows))
    table = pq.read_table(io.BytesIO(data))
    assert table.schema.equals(DEAD_LETTER_SCHEMA)
    assert table["row"].to_pylist() == [0, 3, 7]
    assert pq.read_table(io.BytesIO(to_bytes([]))).num_rows == 0


@pytest.mark.parametrize(
    "secret",
    [
        "s3://user:hunter22@bucket/x",
        "AKIAABCDEFGHIJKLMNOP",
        "https://x/y?X-Amz-Signature=deadbeef99",
        "https://x/y?sv=1&sig=abc%2Fdef%3D",
        "Authorization: Bearer abc.def-ghi_jkl",
        "hf_AbCdEfGhIjKlMnOp",
        "password=hunter22",
        "{'api_key': 'hunter2222'}",
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG",
        "0x7f3a2b1c9d00",
    ],
)
def test_secrets_and_addresses_are_taken_out_of_messages(secret: str) -> None:
    hidden = tidy(f"failed on {secret} here")
    assert not any(
        part in hidden
        for part in ("hunter22", "AKIAABC", "deadbeef99", "def%3D", "abc.def", "hf_AbC", "wJalr", "7f3a2b")
    )
    assert hidden.startswith("failed on")


def test_a_message_is_cut_and_keeps_plain_words() -> None:
    assert len(tidy("x" * 10_000)) == 2048
    assert tidy("expected 3 values, got 0x2") == "expected 3 values, got 0x2"
    assert tidy("lone \ud800 surrogate") == "lone ? surrogate"


def test_an_extension_type_inside_a_list_is_written_as_it_was_read() -> None:
    kind = pa.list_(pa.json_(pa.string()))
    storage = pa.array([['{"a": 1}'], None, []], pa.list_(pa.string()))
    table = pa.table({"j": storage.cast(kind)})
    writer = PartWriter(table.schema)
    writer.write(table)
    assert pq.read_table(pa.BufferReader(writer.finish({})))["j"].to_pylist() == [['{"a": 1}'], None, []]
