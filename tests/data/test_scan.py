from __future__ import annotations

import gc
import io
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.data import footer
from batchinfer.data.scan import scan
from batchinfer.data.schema import unify
from batchinfer.errors import InputError
from tests.data.helpers import REAL, read_windows, together, write

ONE = pa.table({"x": [1]})


def names(path: object) -> list[str]:
    return [Path(f.file.path).name for f in scan(path if isinstance(path, list) else str(path)).files]


def test_a_directory_is_read_recursively_in_path_bytes_without_hidden_names(tmp_path: Path) -> None:
    for name in (
        "b.parquet",
        "a/z.pq",
        "a-b.parquet",
        "Z.PARQ",
        "_tmp/x.parquet",
        ".hid/x.parquet",
        "_x.parquet",
        "é.parquet",
    ):
        write(tmp_path / name, ONE)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "_SUCCESS").write_text("")
    scanned = scan(str(tmp_path))
    assert [f.file.path.removeprefix(f"{tmp_path}/") for f in scanned.files] == [
        "Z.PARQ",
        "a-b.parquet",
        "a/z.pq",
        "b.parquet",
        "é.parquet",
    ]
    assert scanned.ignored == (f"{tmp_path}/notes.txt",)
    assert "1 file ignored" in scanned.notes[0]


def test_globs_lists_and_files_of_any_name_are_expanded_in_order(tmp_path: Path) -> None:
    for name in (
        "d/1.parquet",
        "d/2.parquet",
        "d/10.parquet",
        "e/deep/3.parquet",
        "weird[1].dat",
        "x=1.parquet/part-0.parquet",
    ):
        write(tmp_path / name, ONE)
    assert names(f"{tmp_path}/d/?.parquet") == ["1.parquet", "2.parquet"]
    assert names(f"{tmp_path}/**/3.parquet") == ["3.parquet"]
    assert names(f"{tmp_path}/[!e]/1*.parquet") == ["1.parquet", "10.parquet"]
    assert names([f"{tmp_path}/e", f"{tmp_path}/weird[1].dat", f"{tmp_path}/d"]) == [
        "3.parquet",
        "weird[1].dat",
        "1.parquet",
        "10.parquet",
        "2.parquet",
    ]


def test_a_path_that_matches_nothing_names_the_nearest_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"nearest folder that exists is {tmp_path}"):
        scan(str(tmp_path / "no" / "such"))
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(InputError, match="none is a Parquet file"):
        scan(str(tmp_path))


def test_the_same_file_twice_is_refused_also_through_a_link(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ONE)
    with pytest.raises(InputError, match="named twice"):
        scan([str(tmp_path), f"{tmp_path}/../{tmp_path.name}/a.parquet"])
    os.symlink(tmp_path / "a.parquet", tmp_path / "b.parquet")
    with pytest.raises(InputError, match="same file"):
        scan(str(tmp_path))


def test_a_link_to_nothing_is_told_and_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", ONE)
    os.symlink(tmp_path / "moved.parquet", tmp_path / "in" / "b.parquet")
    with pytest.raises(InputError, match=r"in/b\.parquet: .*link to nothing"):
        scan(str(tmp_path / "in"))
    with pytest.raises(InputError, match=r"in/b\.parquet matches no file: it is a symbolic link to .*moved\.parquet"):
        scan(str(tmp_path / "in" / "b.parquet"))


def test_a_delta_table_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.parquet", ONE)
    (tmp_path / "t" / "_delta_log").mkdir()
    (tmp_path / "t" / "_delta_log" / "0.json").write_text("{}")
    with pytest.raises(InputError, match="Delta table"):
        scan(str(tmp_path))


def test_partitions_become_columns_with_one_type_over_all_files(tmp_path: Path) -> None:
    write(tmp_path / "y=1" / "k=a%20b" / "f.parquet", ONE)
    write(tmp_path / "y=-2" / "k=__HIVE_DEFAULT_PARTITION__" / "f.parquet", pa.table({"x": [2], "y": [99]}))
    got = together(read_windows(tmp_path, 10))
    assert got.to_pylist() == [{"x": 2, "y": -2, "k": None}, {"x": 1, "y": 1, "k": "a b"}]
    assert got.schema.field("y").type == pa.int64()
    scanned = scan(str(tmp_path))
    assert tuple(scanned.columns) == ("x", "y", "k")
    assert any("folder names" in n for n in unify(scanned.files).notes)
    write(tmp_path / "y=3" / "f.parquet", ONE)
    with pytest.raises(InputError, match="partition keys"):
        scan(str(tmp_path))


def test_all_bad_files_are_counted_and_five_are_named(tmp_path: Path) -> None:
    write(tmp_path / "good.parquet", ONE)
    for i in range(7):
        (tmp_path / f"bad{i}.parquet").write_bytes(b"PAR1 nothing of the kind PAR1"[: 4 * i + 3])
    with pytest.raises(InputError) as caught:
        scan(str(tmp_path))
    text = str(caught.value)
    assert text.startswith("7 of 8 input files")
    assert "and 2 more" in text
    assert all(f"bad{i}.parquet" in text for i in range(5))


def test_a_footer_longer_than_the_first_read_is_fetched_whole(tmp_path: Path) -> None:
    wide = pa.table({f"column number {i}": [i] for i in range(900)})
    path = write(tmp_path / "wide.parquet", wide)
    assert int.from_bytes(path.read_bytes()[-8:-4], "little") > footer.TAIL
    assert together(read_windows(path, 5)).equals(wide)


def test_files_that_were_read_are_let_go_of(tmp_path: Path) -> None:
    """An exception that Arrow keeps for ever would keep, by its frames, all that a file's reader has fetched."""
    for number in range(3):
        write(tmp_path / f"{number}.parquet", pa.table({"a": range(1000)}))
    before = held()
    assert len(together(read_windows(tmp_path, 100))) == 3000
    end = time.monotonic() + 30  # Arrow's threads may let go of a file a moment later
    while not held() <= before:
        assert time.monotonic() < end
        time.sleep(0.1)


def held() -> set[int]:
    """Files that this process holds; tests before may have left some."""
    gc.collect()
    found = (o for o in gc.get_objects() if isinstance(o, io.RawIOBase))
    return {id(o) for o in found if type(o).__module__.startswith("batchinfer")}


def test_statistics_are_kept_only_for_the_columns_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"x": [3, 1], "t": ["a", "b"]}))
    groups = scan(str(tmp_path), statistics=["x"]).files[0].row_groups
    assert {k: (v.low, v.high, v.nulls) for k, v in groups[0].statistics.items()} == {"x": (1, 3, 0)}


def test_a_column_that_is_named_like_a_field_of_another_has_no_statistics(tmp_path: Path) -> None:
    table = pa.table({"a.b": [1, 2], "a": [{"b": 7}, {"b": 8}], "c": [3, 4]})
    write(tmp_path / "x.parquet", table)
    (group,) = scan(str(tmp_path), statistics=["a.b", "c"]).files[0].row_groups
    assert {name: (s.low, s.high) for name, s in group.statistics.items()} == {"c": (3, 4)}
    assert together(read_windows(tmp_path, 10, '"a.b" = 1'))["c"].to_pylist() == [3]


def test_objects_behind_a_url_are_found_and_read() -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    with fs.open("/lake/t/d=1/a b.parquet", "wb") as f:
        pq.write_table(ONE, f)
    try:
        scanned = scan("memory://lake/t")
        assert scanned.files[0].file.path == "memory://lake/t/d=1/a b.parquet"
        assert together(read_windows("memory://lake/t", 5)).to_pylist() == [{"x": 1, "d": 1}]
        assert names("memory://lake/*/d=1/*.parquet") == ["a b.parquet"]
    finally:
        fs.rm("/lake", recursive=True)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_fuzzed_footer_is_parsed_or_refused_and_nothing_else(data: st.DataObject) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1, 2], "s": ["a", "b"]}), sink)
    whole = sink.getvalue().to_pybytes()
    length = int.from_bytes(whole[-8:-4], "little")
    body = bytearray(whole[-8 - length : -8])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        footer.parse(bytes(body), len(whole), "file")
    except InputError as e:
        assert str(e).startswith("file")  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    "table", [p.name for p in (REAL / "parquet-interop" / "tables").glob("*")] if REAL.exists() else ["none"]
)
def test_a_real_table_of_another_system_scans_or_is_refused(table: str) -> None:
    try:
        files = scan(str(REAL / "parquet-interop" / "tables" / table)).files
        assert files
    except InputError as e:
        assert table in str(e)  # noqa: PT017 - either outcome is right
