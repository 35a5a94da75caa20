"""A damaged file costs its own rows: the run ends with exit code 2 and the file's name, and the other shards are finished."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.errors import FingerprintError, InputError
from tests.data.damage import at_random, footer_of
from tests.run import decoder
from tests.run.workplace import Workplace

ROOT = Path(__file__).parents[2]
_X = 0x11223344556677
"""Added to x, so that its bytes are found in a file."""


def damaged(workplace: Workplace, name: str, row: int = 1000) -> Path:
    """A file of 2,000 rows in two row groups, with a bit flipped in the page of x where this row is."""
    start = 2000 * (ord(name) - ord("a"))
    table = pa.table({"id": range(start, start + 2000), "x": range(_X + start, _X + start + 2000)})
    layout = {"compression": "none", "use_dictionary": False, "write_page_checksum": True, "row_group_size": 1000}
    bad = workplace.folder / "input" / f"{name}.parquet"
    bad.parent.mkdir(exist_ok=True)
    pq.write_table(table, bad, **layout)
    data = bytearray(bad.read_bytes())
    at = data.index((_X + start + row).to_bytes(8, "little"), 100)
    assert at < footer_of(bytes(data))[0]
    data[at] ^= 1
    bad.write_bytes(data)
    return bad


def test_a_damaged_page_costs_its_shard_and_is_no_fault_of_the_store(workplace: Workplace) -> None:
    workplace.write(2000, name="a")
    workplace.write(2000, name="c", start=4000)
    bad = damaged(workplace, "b", row=1500)
    run = workplace.run()
    assert (run.exit_code, run.counts.succeeded, run.counts.not_attempted, run.counts.dead) == (2, 4000, 2000, 0)
    (error,) = run.record["errors"]
    assert f"shard 1: {bad}: rows " in error
    assert "row group 1, column 'x'" in error
    workplace.write(2000, name="b", start=2000)  # another file by its size and time
    with pytest.raises(FingerprintError, match=r"input\.files"):
        workplace.run()
    assert workplace.run(restart=True).exit_code == 0


def test_damage_in_the_first_rows_is_treated_like_any_other(workplace: Workplace) -> None:
    bad = damaged(workplace, "a", row=3)
    workplace.write(2000, name="b", start=2000)
    run = workplace.run()
    assert (run.exit_code, run.counts.succeeded, run.counts.not_attempted) == (2, 2000, 2000)
    (error,) = run.record["errors"]
    assert f"{bad}: rows " in error
    assert "row group 0, column 'x'" in error


def test_where_no_row_can_be_read_the_run_ends_like_any_other_with_a_damaged_file(workplace: Workplace) -> None:
    bad = damaged(workplace, "a", row=3)
    for _ in range(2):
        run = workplace.run()
        assert (run.exit_code, run.counts.succeeded, run.counts.not_attempted) == (2, 0, 2000)
        (error,) = run.record["errors"]
        assert f"{bad}: rows " in error
    assert not list((workplace.folder / "output").rglob("settings*.json"))  # nothing was seen that could be settled


def killer(workplace: Workplace, monkeypatch: pytest.MonkeyPatch, row: int) -> Path:
    """Four files of 2,000 rows; decoding this row of one of them ends any process that is started from here."""
    for n, name in enumerate("abcd"):
        workplace.write(2000, name=name, start=2000 * n)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([decoder.site(workplace.folder, row), str(ROOT)]))
    return workplace.folder / "input" / f"{'abcd'[row // 2000]}.parquet"


def check_it_cost_itself(workplace: Workplace, bad: Path) -> None:
    run = workplace.opened()
    assert (run.counts.succeeded, run.counts.dead, run.counts.not_attempted) == (6000, 0, 2000)
    (error,) = run.record["errors"]
    assert f"{bad}: reading rows " in error
    assert "SIGABRT" in error


@pytest.mark.parametrize("row", [2500, 0], ids=["in the middle", "in the first rows"])
@pytest.mark.slow
def test_a_decoder_that_dies_of_a_file_costs_that_file(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    bad = killer(workplace, monkeypatch, row)
    codes: list[int] = []
    told = ""
    while not codes or codes[-1] < 0:
        assert len(codes) < 5
        process = workplace.start()
        _, told = process.communicate(timeout=120)
        codes.append(process.returncode)
    assert codes == [-signal.SIGABRT, -signal.SIGABRT, 2], told  # shards in hand at two such ends are suspected
    check_it_cost_itself(workplace, bad)


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_that_takes_one_run(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = killer(workplace, monkeypatch, 2500)
    process = workplace.start(resources={"executor": "ray", "workers": 1, "cpus": 1})
    _, told = process.communicate(timeout=300)
    assert process.returncode == 2, told
    check_it_cost_itself(workplace, bad)


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
