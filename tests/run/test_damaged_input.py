"""A damaged file costs its own rows: the run ends with exit code 2 and the file's name, and the other shards are finished."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.errors import InputError
from tests.data.damage import at_random, footer_of
from tests.run.workplace import Workplace


def test_a_damaged_page_costs_its_shard_and_is_no_fault_of_the_store(workplace: Workplace) -> None:
    workplace.write(2000, name="a")
    workplace.write(2000, name="c", start=4000)
    table = pa.table({"id": range(2000, 4000), "x": range(2000, 4000)})
    bad = workplace.folder / "input" / "b.parquet"
    pq.write_table(table, bad, compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray(bad.read_bytes())
    data[footer_of(bytes(data))[0] // 2] ^= 1
    bad.write_bytes(data)
    run = workplace.run()
    assert (run.exit_code, run.counts.succeeded, run.counts.not_attempted, run.counts.dead) == (2, 4000, 2000, 0)
    assert str(bad) in "".join(run.record["errors"])


@pytest.mark.parametrize("seed", range(0, 40, 2))
def test_a_damaged_file_is_read_or_refused_by_name(workplace: Workplace, seed: int) -> None:
    folder = workplace.folder / "input"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(at_random(seed))
    model = {"inputs": {"x": "x"}, "outputs": {"y": {"column": "y", "type": "float64"}}}
    told, code = "", 2
    try:
        run = workplace.run(model=model, errors={"threshold": -1}, output={"carry": "none"})
        told, code = "".join(run.record["errors"]), run.exit_code
    except InputError as e:
        told = str(e)
    assert code == 0 or (code == 2 and ("a.parquet" in told or "has no column" in told)), told
