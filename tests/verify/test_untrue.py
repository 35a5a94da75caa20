"""Files whose bytes are as recorded, and which can't be true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.api import verify_output
from batchinfer.data import ordinals
from batchinfer.data.part import PREFIX
from batchinfer.verify.findings import Kind
from tests.verify.outputs import files, reseal, rewrite


@pytest.mark.parametrize("column", ["id", "score", "kind", "tags", "day"])
def test_deep_finds_the_one_row_whose_carried_value_is_not_the_inputs(output: Path, column: str) -> None:
    def change(table: pa.Table, _metadata: dict[str, str]) -> pa.Table:
        rows = list(range(len(table)))
        rows[123] = 8 if column != "day" else 123
        at = table.schema.get_field_index(column)
        values = table[column].take(pa.array(rows))
        if column == "day":
            values = pa.chunked_array([pa.array([9 if n == 123 else v for n, v in enumerate(values.to_pylist())])])
        return table.set_column(at, table.schema.field(at), values)

    part = files(output, "data/*.parquet")[0]
    rewrite(output, part, change)
    assert verify_output(output).findings == []
    (found,) = verify_output(output, deep=True).findings
    assert (found.kind, found.path) == (Kind.DIFFERENT, f"data/{part.name}")
    assert f"row 123, column '{column}'" in found.message
    assert "day=1/a.parquet" in found.message


def test_deep_finds_rows_that_where_does_not_leave(output: Path) -> None:
    def change(table: pa.Table, metadata: dict[str, str]) -> pa.Table:
        decision = json.loads(metadata["shard"])
        filtered = ordinals.decode(decision["filtered"])
        decision["filtered"] = ordinals.encode(np.sort(np.append(filtered[filtered != 1500], 1499)))
        metadata["shard"] = json.dumps(decision)
        return table

    part = files(output, "data/*.parquet")[0]
    filtered = json.loads(pq.read_metadata(part).metadata[f"{PREFIX}shard".encode()])["filtered"]
    assert filtered
    rewrite(output, part, change)
    found = verify_output(output, deep=True).findings
    assert len(found) == 1
    assert "`where`" in found[0].message


def test_a_part_whose_rows_are_not_those_that_its_footer_counts_is_found(output: Path) -> None:
    rewrite(output, files(output, "data/*.parquet")[0], lambda table, _: table.slice(1))
    (found,) = verify_output(output).findings
    assert found.kind is Kind.UNSOUND
    assert "and its footer says that" in found.message


def test_records_that_do_not_agree_are_found(output: Path) -> None:
    (manifest,) = files(output, "_batchinfer/*/manifests/0001.json")
    (plan,) = files(output, "_batchinfer/*/plans/0001.json")

    def more_rows(value: dict[str, Any]) -> None:
        value["rows"]["succeeded"] += 1

    def one_part_less(value: dict[str, Any]) -> None:
        value["parts"].pop()

    def same_rows_twice(value: dict[str, Any]) -> None:
        for one in value["shards"][0][2]:
            one[1] = 0

    def another_job(value: dict[str, Any]) -> None:
        value["fingerprint"]["digest"] = "0" * 64

    for record, change, words in (
        (manifest, more_rows, "its counts aren't those of its parts"),
        (manifest, one_part_less, "its counts aren't those of its parts"),
        (plan, same_rows_twice, "each of the first rows of the input once"),
        (plan, another_job, "belongs to another job"),
    ):
        sound = record.read_bytes()
        reseal(record, change)
        found = verify_output(output).findings
        assert any(f.kind is Kind.UNSOUND and words in f.message for f in found), (change, found)
        record.write_bytes(sound)
    assert verify_output(output).findings == []
