from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.data.scan import scan
from batchinfer.errors import InputError
from tests.data.helpers import INDEX, REAL, read_windows, together

GOOD = [
    e["file"] for e in INDEX if e["kind"] != "bad" and e["file"].endswith(".parquet") and e["pyarrow"].startswith("ok")
]
ENCRYPTED = (
    sorted(str(p.relative_to(REAL)) for p in (REAL / "parquet-interop").glob("*ncrypt*")) if REAL.exists() else []
)
BAD = [str(p.relative_to(REAL)) for p in sorted((REAL / "parquet-bad").glob("*.parquet"))] if REAL.exists() else []
BOMB = "pqt--large_string_map.brotli.parquet"


def same(got: pa.Table, want: pa.Table) -> bool:
    pairs = zip(got.columns, want.unify_dictionaries().combine_chunks().columns, strict=True)
    return got.schema.names == want.schema.names and all(
        g.equals(w) or (g.type == w.type and g.to_string(window=10**6) == w.to_string(window=10**6))  # NaN isn't equal
        for g, w in pairs
    )


@pytest.mark.parametrize("file", [f for f in GOOD if BOMB not in f and f not in ENCRYPTED])
def test_a_file_of_another_writer_reads_as_pyarrow_reads_it(file: str) -> None:
    want = pq.read_table(REAL / file, partitioning=None)
    if len(set(want.schema.names)) < want.num_columns:
        with pytest.raises(InputError, match="times"):
            read_windows(REAL / file, 1000)
        return
    if "duck--invalid" in file:  # its texts are no UTF-8
        with pytest.raises(InputError, match=r"'X1'.*UTF8"):
            read_windows(REAL / file, 1000)
        return
    if "duck--empty-group" in file:  # a struct without fields has nothing to read
        want = want.set_column(
            want.schema.get_field_index("nested"), "nested", pa.nulls(want.num_rows, want.schema.field("nested").type)
        )
    windows = read_windows(REAL / file, 1000)
    if windows:
        assert same(together(windows), want)
    assert sum(w.rows for w in windows) == want.num_rows


@pytest.mark.parametrize("file", ENCRYPTED)
def test_an_encrypted_file_is_refused_by_name(file: str) -> None:
    with pytest.raises(InputError, match="encrypted"):
        scan(str(REAL / file))


@pytest.mark.parametrize("file", [f"parquet-interop/{BOMB}"] if (REAL / "parquet-interop" / BOMB).exists() else [])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_with_the_numbers(file: str) -> None:
    with pytest.raises(InputError, match=r"2,147,483,827 bytes"):
        scan(str(REAL / file))


_CHILD = """
import json, sys
from batchinfer.errors import InputError
from tests.data.helpers import read_windows
for file in json.loads(sys.argv[1]):
    print(file, end=" ", flush=True)
    try:
        print("rows", sum(w.table.num_rows for w in read_windows(file, 512)), flush=True)
    except InputError as e:
        print("refused" if file in str(e) else "UNNAMED", flush=True)
"""


def test_a_damaged_file_gives_rows_or_an_input_error_that_names_it() -> None:
    files = [str(REAL / f) for f in BAD]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(files)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])
    outcomes = [line.split()[1] for line in done.stdout.splitlines()]
    assert len(outcomes) == len(files)
    assert set(outcomes) <= {"rows", "refused"}
