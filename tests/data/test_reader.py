from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.data.inputs import RowRange
from batchinfer.data.part import PartWriter
from batchinfer.data.reader import Reader, sources
from batchinfer.data.scan import scan
from batchinfer.data.schema import unify
from batchinfer.data.volumes import Volumes
from batchinfer.data.where import Where
from batchinfer.errors import InputError, StorageError
from batchinfer.plan.shards import cut
from tests.data.helpers import all_ranges, read_windows, together, write

KINDS: dict[str, pa.Array] = {
    "ints": pa.array([1, None, 3], pa.int16()),
    "uints": pa.array([1, 2**63, None], pa.uint64()),
    "floats": pa.array([1.5, None, 2.0], pa.float32()),
    "half": pa.array(np.array([1, 2, 3], np.float16)),
    "flags": pa.array([True, None, False]),
    "text": pa.array(["a", None, "Ü"]),
    "large text": pa.array(["a", None, "b"], pa.large_string()),
    "bytes": pa.array([b"\xff", None, b""], pa.large_binary()),
    "fixed.bytes": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "money": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-3.10")], pa.decimal128(20, 2)),
    "day": pa.array([datetime.date(2020, 1, 1), None, None]),
    "clock": pa.array([1, None, 3], pa.time64("us")),
    "zoned": pa.array([1, None, 3], pa.timestamp("us", "Europe/Berlin")),
    "nanos": pa.array([1, None, 3], pa.timestamp("ns")),
    "took": pa.array([1, None, 3], pa.duration("ms")),
    "category": pa.array(["x", None, "x"]).dictionary_encode(),
    "list": pa.array([[1, None], None, []], pa.list_(pa.int32())),
    "texts": pa.array([["a"], None, []], pa.large_list(pa.large_string())),
    "vector": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)),
    "struct": pa.array(
        [{"a": 1, "b": {"c": ["x"]}}, None, {"a": None, "b": None}],
        pa.struct([("a", pa.int8()), ("b", pa.struct([("c", pa.list_(pa.string()))]))]),
    ),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "nothing": pa.nulls(3),
    "": pa.array([7, 8, 9]),
    "uuid": pa.array([b"0" * 16, None, b"1" * 16], pa.uuid()),
}


def test_every_kind_of_column_survives_reader_and_part_writer(tmp_path: Path) -> None:
    table = pa.table(KINDS)
    got = together(read_windows(write(tmp_path / "k.parquet", table, row_group_size=2), 2))
    assert got.equals(table.combine_chunks())
    writer = PartWriter(got.schema, row_group_rows=2)
    writer.write(got)
    (tmp_path / "p.parquet").write_bytes(writer.finish({}))
    assert pq.read_table(tmp_path / "p.parquet").equals(got)
    assert together(read_windows(tmp_path / "p.parquet", 3)).equals(got)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_one_column_alone_is_read_with_nothing_besides(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "k.parquet", pa.table(KINDS))
    got = together(read_windows(path, 2, columns=[name]))
    assert got.equals(pa.table({name: KINDS[name]}))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 23), min_size=1, max_size=4),
    group=st.integers(1, 9),
    window=st.integers(1, 30),
    shard=st.integers(1, 40),
    data=st.data(),
)
def test_windows_hold_every_row_once_with_its_ordinal_and_source(
    tmp_path_factory: Any, sizes: list[int], group: int, window: int, shard: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("in")
    first = 0
    for i, rows in enumerate(sizes):
        write(
            folder / f"{i}.parquet",
            pa.table(
                {
                    "x": pa.array(range(first, first + rows), pa.int64()),
                    "t": [str(v) for v in range(first, first + rows)],
                }
            ),
            row_group_size=group,
        )
        first += rows
    sql = data.draw(st.sampled_from([None, "x % 3 = 0", "x >= 20", "x < 10 OR x > 40", "x < 0"]))
    where = Where(sql) if sql else None
    limit = data.draw(st.one_of(st.none(), st.integers(0, 60)))
    scanned = scan(str(folder), statistics=["x"])
    shards = cut(scanned.files, where, limit, shard)
    reader = Reader(unify(scanned.files).schema, where)
    total = min(first, limit) if limit is not None else first
    assert sum(s.rows for s in shards) == total
    seen = []
    for one in shards:
        at = 0
        for w in reader.windows(one.ranges, window):
            assert (w.first, w.rows) == (at, min(window, one.rows - at))
            at += w.rows
            assert w.table["x"].to_pylist() == [one.first + o for o in w.ordinals]
            assert w.table["x"].num_chunks <= 1
            for (path, row), x in zip(w.sources(w.ordinals), w.table["x"].to_pylist(), strict=True):
                assert sum(sizes[: int(Path(path).stem)]) + row == x
            seen += w.table["x"].to_pylist()
        assert at == one.rows
    keep = {
        None: lambda x: True,
        "x % 3 = 0": lambda x: x % 3 == 0,
        "x >= 20": lambda x: x >= 20,
        "x < 10 OR x > 40": lambda x: x < 10 or x > 40,
        "x < 0": lambda x: False,
    }[sql]
    assert seen == [x for x in range(total) if keep(x)]


def test_rows_without_any_column_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "d=1" / "a.parquet", pa.table({"x": range(10)}))
    assert [w.ordinals.tolist() for w in read_windows(path, 4, columns=[])] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [w.table.to_pylist() for w in read_windows(tmp_path, 9, columns=["d"])] == [[{"d": 1}] * 9, [{"d": 1}]]


def test_source_finds_file_and_row() -> None:
    with pytest.raises(IndexError):
        sources([], [0])


class CountingStore:
    root = "/"

    def __init__(self, inner: Any, fail_after: int | None = None, error: BaseException | None = None) -> None:
        self.inner, self.read_bytes, self.left, self.error = inner, 0, fail_after, error

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        if self.left is not None:
            self.left -= 1
            if self.left < 0 and self.error is not None:
                raise self.error
        data = self.inner.read(path, start, stop)
        self.read_bytes += len(data)
        return bytes(data)


def with_store(reader: Reader, url: str, **options: Any) -> CountingStore:
    store, _ = Volumes().locate(url)
    counting = CountingStore(store, **options)
    reader._volumes._stores["/"] = counting  # type: ignore[assignment]
    return counting


@pytest.mark.parametrize("error", [StorageError("the store is away"), FileNotFoundError("x"), OSError("raw")])
@pytest.mark.parametrize("reads", [0, 1])
def test_a_fault_of_the_store_keeps_its_type_through_the_decoder(
    tmp_path: Path, error: BaseException, reads: int
) -> None:
    path = write(
        tmp_path / "a.parquet",
        pa.table({"x": np.random.default_rng(0).random(100_000), "y": np.arange(100_000)}),
        compression="none",
        use_dictionary=False,
    )
    scanned = scan(str(path))
    reader = Reader(unify(scanned.files).schema)
    with_store(reader, str(path), fail_after=reads, error=error)
    expected = InputError if isinstance(error, FileNotFoundError) else type(error)
    with pytest.raises(expected) as caught:
        list(reader.windows(all_ranges(scanned), 1000))
    assert caught.type is expected


def test_consecutive_shards_of_one_row_group_are_read_once(tmp_path: Path) -> None:
    rows = 60_000
    path = write(tmp_path / "a.parquet", pa.table({"x": np.arange(rows)}), compression="none", use_dictionary=False)
    scanned = scan(str(path))
    reader = Reader(unify(scanned.files).schema)
    store = with_store(reader, str(path))
    file = scanned.files[0].file
    seen = []
    for start in range(0, rows, 1_000):
        for w in reader.windows([RowRange(file, start, 1_000)], 256):
            seen += w.table["x"].to_pylist()
    assert seen == list(range(rows))
    assert store.read_bytes < 2 * file.size
    assert [w.table["x"].to_pylist() for w in reader.windows([RowRange(file, 70, 2)], 9)] == [[70, 71]]


def test_a_file_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"x": [1, 2]}))
    scanned = scan(str(path))
    for other in (pa.table({"x": [1, 3]}), pa.table({"x": range(1000)}), pa.table({"z": [""]})):
        write(path, other)
        with pytest.raises(InputError, match="changed since the job was planned"):
            list(Reader(unify(scanned.files).schema).windows(all_ranges(scanned), 10))
    path.unlink()
    with pytest.raises(InputError, match="changed since the job was planned"):
        list(Reader(unify(scanned.files).schema).windows(all_ranges(scanned), 10))


def test_a_flipped_bit_is_found_by_the_page_checksum(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        pa.table({"x": range(1000)}),
        write_page_checksum=True,
        compression="none",
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    data[4000] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet: rows 0 to 999 can't be read \(row group 0, column 'x', OSError"):
        read_windows(path, 10)


def test_text_that_is_not_utf8_names_the_column(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    path = write(tmp_path / "a.parquet", pa.table({"ok": ["x"], "bad text": bad}))
    with pytest.raises(InputError, match=r"a\.parquet.*'bad text'"):
        read_windows(path, 10)


def test_types_of_files_are_widened_and_conflicts_name_both_files(tmp_path: Path) -> None:
    point = pa.struct([("x", pa.int8()), ("tags", pa.list_(pa.struct([("n", pa.int8())])))])
    wider = pa.struct(
        [("x", pa.int32()), ("tags", pa.list_(pa.struct([("n", pa.int16()), ("m", pa.string())]))), ("z", pa.string())]
    )
    a = pa.table(
        {
            "i": pa.array([1], pa.int8()),
            "f": pa.array([1], pa.int32()),
            "s": pa.array(["a"]),
            "c": pa.array(["k"]).dictionary_encode(),
            "n": pa.nulls(1),
            "d": pa.array([decimal.Decimal("1.5")], pa.decimal128(3, 1)),
            "p": pa.array([{"x": 1, "tags": [{"n": 1}, None]}], point),
        }
    )
    b = pa.table(
        {
            "i": pa.array([300], pa.uint16()),
            "f": pa.array([0.5], pa.float32()),
            "s": pa.array(["b"], pa.large_string()),
            "c": ["l"],
            "n": [1],
            "d": pa.array([decimal.Decimal("123.25")], pa.decimal128(8, 2)),
            "p": pa.array([None], wider),
            "new": [1],
        }
    )
    write(tmp_path / "a.parquet", a)
    write(tmp_path / "b.parquet", b)
    unified = unify(scan(str(tmp_path)).files)
    assert [str(f.type) for f in unified.schema][:6] == [
        "int32",
        "double",
        "large_string",
        "string",
        "int64",
        "decimal128(8, 2)",
    ]
    assert unified.schema.field("p").type == wider
    assert any("'new' is missing in 1 of 2 files" in n for n in unified.notes)
    got = together(read_windows(tmp_path, 10))
    assert got["f"].to_pylist() == [1.0, 0.5]
    assert got["p"].to_pylist() == [{"x": 1, "tags": [{"n": 1, "m": None}, None], "z": None}, None]
    write(tmp_path / "c.parquet", pa.table({"i": ["text"]}))
    with pytest.raises(InputError, match=r"'i' has the type int32 in .*b\.parquet, but string in .*c\.parquet"):
        unify(scan(str(tmp_path)).files)
    with pytest.raises(InputError, match="no input file has the column 'neu'; did you mean 'new'"):
        unify(scan(str(tmp_path)).files, ["neu"])


def test_a_file_without_a_struct_whose_fields_are_required_gives_nulls_that_can_be_written(tmp_path: Path) -> None:
    inner = pa.struct([pa.field("a", pa.int64(), nullable=False)])
    kinds = {"s": inner, "l": pa.list_(pa.field("item", inner, nullable=False)), "f": pa.list_(inner.field(0), 2)}
    rows = {"s": [{"a": 1}], "l": [[{"a": 2}]], "f": [[3, 4]]}
    whole = pa.table({name: pa.array(rows[name], kind) for name, kind in kinds.items()})
    write(tmp_path / "a.parquet", whole.append_column("x", pa.array([1])))
    write(tmp_path / "b.parquet", pa.table({"x": [2]}))
    got = together(read_windows(tmp_path, 10))
    assert got.to_pylist() == [{**whole.to_pylist()[0], "x": 1}, {"s": None, "l": None, "f": None, "x": 2}]
    writer = PartWriter(got.schema)
    writer.write(got)
    assert pq.read_table(pa.BufferReader(writer.finish({}))).to_pylist() == got.to_pylist()
    alone = together(read_windows(tmp_path / "a.parquet", 10))
    assert not alone.schema.field("s").type.field("a").nullable


def test_a_duplicate_column_matters_only_when_it_is_needed(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet", pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["x", "x", "y"])
    )
    with pytest.raises(InputError, match="'x' stands 2 times"):
        unify(scan(str(path)).files)
    scanned = scan(str(path))
    reader = Reader(unify(scanned.files, ["y"]).schema)
    assert [w.table.to_pylist() for w in reader.windows(all_ranges(scanned), 5)] == [[{"y": 3}]]


def test_dictionaries_of_several_files_meet_in_one_window(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.parquet", pa.table({"c": pa.array([f"a{i}", "b"]).dictionary_encode()}))
    (window,) = read_windows(tmp_path, 100)
    assert window.table["c"].num_chunks == 1
    assert window.table["c"].to_pylist() == ["a0", "b", "a1", "b", "a2", "b"]


def test_where_may_use_a_column_that_windows_do_not_have(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"x": range(5), "y": range(5)}))
    (window,) = read_windows(path, 10, "y >= 3", columns=["x"])
    assert window.table.to_pydict() == {"x": [3, 4]}
    assert window.ordinals.tolist() == [3, 4]
