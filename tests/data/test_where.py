from __future__ import annotations

import datetime
import io
import math
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchinfer.data.scan import scan
from batchinfer.data.statistics import ColumnStats, of_chunk
from batchinfer.data.where import Where
from batchinfer.errors import InputError
from batchinfer.plan.shards import cut
from tests.data.helpers import read_windows, write

SCHEMA = pa.schema(
    [
        ("i", pa.int64()),
        ("f", pa.float64()),
        ("g", pa.float32()),
        ("s", pa.string()),
        ("d", pa.date32()),
        ("b", pa.bool_()),
        ("odd näme", pa.int8()),
        ("t", pa.timestamp("us")),
        ("ms", pa.timestamp("ms")),
        ("ns", pa.timestamp("ns")),
        ("p", pa.decimal128(10, 2)),
        ("w", pa.decimal128(38, 10)),
        ("z", pa.timestamp("us", "UTC")),
    ]
)


@pytest.mark.parametrize(
    ("sql", "part"),
    [
        ("i >", "not a condition"),
        ("odd name = 1", "not a condition"),
        ('"odd name" = 1', "did you mean 'odd näme'"),
        ("i + 1", "not true or false"),
        ("i > avg(i)", "one row only"),
        ("count(*) > 1", "one row only"),
        ("row_number() over () > 1", "one row only"),
        ("s > 1", "can't be evaluated"),
        ("i = 1; drop table x", "not a condition"),
        ("nonsense(i)", "not a condition"),
        ("i BETWEEN SYMMETRIC 2 AND 1", "not a condition"),  # else pruning must know it
        ("i in (select 1)", "one row only"),
    ],
)
def test_a_condition_that_cannot_filter_rows_is_refused_at_input_where(sql: str, part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        Where(sql).check(SCHEMA)
    assert str(caught.value).startswith("input.where")


def test_null_is_false_and_the_mask_has_no_nulls() -> None:
    mask = Where("i > 1").mask(pa.table({"i": pa.array([1, 2, None], pa.int64())}))
    assert mask.to_pylist() == [False, True, False]


def test_names_with_spaces_quotes_and_other_letters_work() -> None:
    where = Where('"odd näme" = 2 AND `i` = 1')
    where.check(SCHEMA)
    assert where.columns == ("odd näme", "i")
    assert where.mask(pa.table({"i": [1, 1], "odd näme": pa.array([2, 3], pa.int8())})).to_pylist() == [True, False]


def test_a_condition_without_columns_keeps_all_or_none() -> None:
    assert Where("1 = 1").mask(pa.table({"i": [1, 2]})).to_pylist() == [True, True]
    assert Where("1 = 2").mask(pa.table({"i": [1, 2]})).to_pylist() == [False, False]


at = datetime.datetime.fromisoformat
S = {
    "i": ColumnStats(5, 10, 0),
    "f": ColumnStats(5.0, 10.0, 0),
    "g": ColumnStats(5.0, 10.0, None),
    "s": ColumnStats("d", "h", 2),
    "d": ColumnStats(datetime.date(2020, 1, 1), datetime.date(2020, 2, 1), 0),
    "b": ColumnStats(True, True, 0),
    "odd näme": ColumnStats(None, None, 10),
    **dict.fromkeys(["t", "ms", "ns"], ColumnStats(at("2020-01-01 12:00"), at("2020-01-02 12:00"), 0)),
    "p": ColumnStats(Decimal("1.25"), Decimal("3.75"), 0),
    "w": ColumnStats(Decimal("9007199254740990.6"), Decimal("9007199254740990.6"), 0),
    "z": ColumnStats(at("2020-01-01 12:00+00:00"), at("2020-01-02 12:00+00:00"), 0),
}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("i < 5", False),
        ("i <= 5", True),
        ("5 > i", False),
        ("i > 10", False),
        ("i = 11", False),
        ("i <> 7", True),
        ("NOT i >= 5", False),
        ("i IN (1, 2)", False),
        ("i IN (1, 7)", True),
        ("i BETWEEN 11 AND 20", False),
        ("i NOT BETWEEN 1 AND 20", False),
        ("i IS NULL", False),
        ("i IS NOT NULL", True),
        ("i < 5 OR i > 10", False),
        ("i < 5 OR s = 'e'", True),
        ("i < 5 AND s = 'e'", False),
        ("NOT (i < 5 OR i > 10)", True),
        ("f > 10", True),
        ("f >= 11", True),
        ("f < 5", False),
        ("f = 11", False),
        ("f <> 7", True),
        ("NOT f <= 10", True),  # NaN is above all
        ("g < 0.1", True),
        ("g < 4", False),
        ("i > 10.5", True),
        ("i = '20'", True),
        ("s = 'hz'", True),
        ("s > 'hz'", True),
        ("s = 'i'", False),
        ("s < 'd'", False),
        ("s IS NULL", True),
        ("g IS NULL", True),
        ("d > DATE '2020-02-01'", False),
        ("d > '2020-02-01'", True),
        ("d = DATE '2020-01-15'", True),
        ("t < TIMESTAMP '2020-01-01 12:00:00'", False),
        ("t <= TIMESTAMP '2020-01-01 12:00:00'", True),
        ("t < TIMESTAMP '2020-01-01 12:00:00.000001'", True),
        ("t > CAST('2020-01-02T12:00:00.000' AS DATETIME)", False),
        ("t < DATE '2020-01-01'", False),
        ("t > DATE '2020-01-02'", True),
        ("t = DATE '2020-01-01'", False),
        ("t > TIMESTAMP '2021-01-01 12:00:00Z'", True),
        ("t > CAST('2021-01-01 12:00:00' AS TIMESTAMP(3))", True),
        ("d = TIMESTAMP '2021-01-01 12:00:00'", True),
        ("ms > TIMESTAMP '2020-01-02 12:00:00.001'", False),
        ("ms > TIMESTAMP '2020-01-02 12:00:00.000001'", True),
        ("ns > TIMESTAMP '2021-01-01 12:00:00'", True),
        ("p < 1.2", False),
        ("p < 1.25", True),
        ("p > 4", False),
        ("p = 3.755", True),
        ("p IN (1, 5.5)", False),
        ("p <> 2", True),
        ("p > 1e300", True),
        ("w < 9007199254740991", True),  # as a float the bound is that number
        ("w <> 9007199254740991", True),
        ("z > TIMESTAMP '2021-01-01 12:00:00'", True),
        ("i > 9223372036854775808", True),  # no number of the column's type
        ("f < -9007199254740994", True),
        ("x.i > 10", True),  # may be a field of a struct
        ("b", True),
        ("NOT b", False),
        ("b = FALSE", False),
        ('"odd näme" = 2', False),
        ('"odd näme" IS NULL', True),
        ('"odd näme" IS NOT NULL', False),
        ("i + 1 > 100", True),
        ("abs(i) > 100", True),
        ("s LIKE 'z%'", True),
        ("i > 1_000", True),
        ("i = 1 IS NULL", True),
        ("i IN (1, NULL)", True),
        ("i < 99999999999999999999", True),
        ("unknown = 1", True),
        ("CASE WHEN i < 5 THEN TRUE END", True),
    ],
)
def test_pruning_says_no_only_where_statistics_prove_it(sql: str, expected: bool) -> None:
    assert Where(sql).may_match(S, SCHEMA, 10) is expected


def test_a_group_without_rows_matches_nothing() -> None:
    assert not Where("i = 7").may_match(S, SCHEMA, 0)
    assert not Where("unknown = 1").may_match({}, SCHEMA, 0)


def test_a_column_without_statistics_is_never_pruned() -> None:
    assert Where("i < 5").may_match({}, SCHEMA, 10)
    assert Where("i IS NULL").may_match({}, SCHEMA, 10)


NUMBERS = st.sampled_from([None, 0.0, -0.0, 1.0, 2.5, -3.0, 0.1, math.nan, math.inf, -math.inf, 1e300, 2.0**53])
INTEGERS = st.sampled_from([None, 0, 1, 2, -3, 7, 127, 2**53 + 1, -(2**63), 2**63 - 1])
TEXTS = st.sampled_from([None, "", "a", "b", "ab", "Ü", "z" * 70, "a'b", "a\\nb", "\U0001f600"])
TIMES = st.sampled_from([None, at("2020-02-29"), at("2020-02-29 12:00:00.001"), at("1900-01-01")])
SMALL_TIMES = st.one_of(TIMES, st.just(at("2020-02-29 12:00:00.001001")))
PRICES = st.sampled_from([None, *map(Decimal, ("0.10", "1.25", "1.26", "-3.00", "100.00", "99999999.99"))])
DATES = st.sampled_from([None, datetime.date(1970, 1, 1), datetime.date(2020, 2, 29), datetime.date(1900, 1, 1)])


def _number(value: float) -> str:
    return repr(value)


COLUMNS = {
    "i": (pa.int64(), INTEGERS),
    "f": (pa.float64(), NUMBERS),
    "g": (pa.float32(), NUMBERS),
    "s": (pa.string(), TEXTS),
    "d": (pa.date32(), DATES),
    "b": (pa.bool_(), st.sampled_from([None, True, False])),
    "t": (pa.timestamp("us"), SMALL_TIMES),
    "ms": (pa.timestamp("ms"), TIMES),
    "ns": (pa.timestamp("ns"), SMALL_TIMES),
    "p": (pa.decimal128(10, 2), PRICES),
    "w": (pa.decimal128(38, 10), PRICES),
    "o o": (pa.uint8(), st.sampled_from([None, 0, 1, 200, 255])),
}
MOMENTS = st.sampled_from(
    [
        "TIMESTAMP '2020-02-29 12:00:00.001'",
        "TIMESTAMP '2020-02-29 12:00:00.001001'",
        "CAST('2020-02-29T12:00:00.000999' AS TIMESTAMP)",
        "DATE '2020-02-29'",
        "TIMESTAMP '1950-01-01 00:00:00'",
    ]
)
_LITERAL = {
    "i": st.sampled_from(
        ["0", "1", "-3", "7", "2.5", "9007199254740993", "9007199254740992.0", "-9223372036854775808", "1e3"]
    ),
    "f": st.sampled_from(["0", "1", "2.5", "-3", "0.1", "1e300", "9007199254740992", "-1e308"]),
    "g": st.sampled_from(["0", "1", "2.5", "-3", "0.1", "16777217"]),
    "s": st.sampled_from(["''", "'a'", "'ab'", "'b'", "'Ü'", "'zz'", "'a''b'", "'a\\nb'"]),
    "d": st.sampled_from(["DATE '1970-01-01'", "DATE '2020-02-29'", "CAST('1950-01-01' AS DATE)"]),
    "b": st.sampled_from(["TRUE", "FALSE"]),
    **dict.fromkeys(["t", "ms", "ns"], MOMENTS),
    **dict.fromkeys(
        ["p", "w"], st.sampled_from(["0.1", "1.25", "1.255", "1.2549999999", "-3", "100", "1e2", "99999999.99"])
    ),
    "o o": st.sampled_from(["0", "1", "-1", "256", "200", "3.5"]),
}


@st.composite
def leaves(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(COLUMNS)))
    literal = _LITERAL[name]
    column = f'"{name}"'
    form = draw(st.integers(0, 6))
    if form == 0:
        return f"{column} IS {draw(st.sampled_from(['', 'NOT ']))}NULL"
    if form == 1:
        return f"{column} {draw(st.sampled_from(['', 'NOT ']))}IN ({draw(literal)}, {draw(literal)})"
    if form == 2:
        return f"{column} {draw(st.sampled_from(['', 'NOT ']))}BETWEEN {draw(literal)} AND {draw(literal)}"
    operator = draw(st.sampled_from(["<", "<=", ">", ">=", "=", "<>", "!="]))
    return f"{draw(literal)} {operator} {column}" if form == 3 else f"{column} {operator} {draw(literal)}"


PREDICATES = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("{} OR {}".format, inner, inner),
        st.builds("NOT ({})".format, inner),
        st.builds("NOT {}".format, inner),
    ),
    max_leaves=5,
)
TABLES = st.lists(st.fixed_dictionaries({n: values for n, (_, values) in COLUMNS.items()}), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=TABLES, sql=PREDICATES, group=st.integers(1, 5))
def test_pruning_never_removes_a_row_that_the_exact_filter_keeps(
    rows: list[dict[str, object]], sql: str, group: int
) -> None:
    table = pa.table({n: pa.array([r[n] for r in rows], kind) for n, (kind, _) in COLUMNS.items()})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=group)
    where = Where(sql)
    try:
        mask = where.mask(table).to_pylist()
    except InputError:
        return  # polars refuses some mixtures of types; nothing is filtered then
    metadata = pq.read_metadata(io.BytesIO(sink.getvalue()))
    start = 0
    for g in range(metadata.num_row_groups):
        part = metadata.row_group(g)
        statistics = {
            part.column(c).path_in_schema: of_chunk(part.column(c), part.num_rows) for c in range(part.num_columns)
        }
        if not where.may_match(statistics, table.schema, part.num_rows):
            assert not any(mask[start : start + part.num_rows]), sql
        start += part.num_rows


def test_partition_values_and_absent_columns_prune_whole_files(tmp_path: Path) -> None:
    write(tmp_path / "year=2023" / "a.parquet", pa.table({"x": [1, 2]}))
    write(tmp_path / "year=2024" / "a.parquet", pa.table({"x": [3], "y": [1]}))
    scanned = scan(str(tmp_path), statistics=["year", "y", "x"])
    assert [r.pruned for s in cut(scanned.files, Where("year = 2024"), None, 10) for r in s.ranges] == [True, False]
    assert [r.pruned for s in cut(scanned.files, Where("y = 1"), None, 10) for r in s.ranges] == [True, False]
    assert [r.pruned for s in cut(scanned.files, Where("x < 3"), None, 10) for r in s.ranges] == [False, True]
    assert [w.table["x"].to_pylist() for w in read_windows(tmp_path, 10, "year = 2024")] == [[3]]
