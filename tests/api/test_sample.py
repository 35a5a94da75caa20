"""Predictions as a dataset, and some of them beside their input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.api.results import Results
from batchinfer.api.sample import sample
from batchinfer.errors import InputError, OutputError
from batchinfer.ledger import jobs
from batchinfer.storage.local import LocalStore
from tests.run.workplace import Workplace

ANY_DEAD: dict[str, Any] = {"errors": {"threshold": -1}}


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_a_sample_has_the_input_of_each_row_without_a_key_column(workplace: Workplace) -> None:
    workplace.write(5000)
    workplace.write(3000, name="b", start=5000)
    run = workplace.run(input={"key": None}, output={"carry": "none"})
    frame = run.sample(50, seed=3)
    assert frame.columns == ["id", "x", "y"]
    assert len(frame) == frame["id"].n_unique() == 50
    assert frame["id"].is_sorted()
    assert frame["id"].max() > 5000  # of the second file, too
    assert (frame["y"] == 2 * frame["x"]).all()


def test_a_sample_is_that_of_its_seed(workplace: Workplace) -> None:
    workplace.write(5000)
    run = workplace.run()
    assert run.sample(20, seed=1).equals(run.sample(20, seed=1))
    assert not run.sample(20, seed=1).equals(run.sample(20, seed=2))


def test_every_row_is_as_likely_as_any_other(workplace: Workplace) -> None:
    workplace.write(40, group=7)
    run = workplace.run(batching={"window": 10, "shard": 10})
    drawn = pl.concat([run.sample(8, seed=seed, columns=[]) for seed in range(100)])
    counts = drawn["id"].value_counts()["count"]
    assert len(counts) == 40
    assert counts.sum() == 800
    assert 4 <= counts.min() <= counts.max() <= 40  # 20 each, give or take


def test_dead_and_filtered_rows_are_not_in_a_sample(workplace: Workplace) -> None:
    workplace.write(3000, bad={0, 7, 999, 1000, 2999})
    run = workplace.run(input={"where": "id % 3 <> 1"}, output={"carry": "none"}, **ANY_DEAD)
    frame = run.sample(3000)
    assert frame["id"].to_list() == [n for n in range(3000) if n % 3 != 1 and n not in {0, 999, 2999}]
    assert (frame["y"] == 2 * frame["x"]).all()


def test_retried_rows_are_in_a_sample_at_their_places_and_last_in_the_dataset(workplace: Workplace) -> None:
    bad = {3, 700, 2500}
    workplace.write(3000, bad=bad)
    workplace.run(**ANY_DEAD)
    workplace.mend()
    run = workplace.retry(**ANY_DEAD)
    frame = run.sample(3000)
    assert frame["id"].to_list() == list(range(3000))
    assert frame.filter(pl.col("y") == -1)["id"].to_list() == sorted(bad)
    ids = run.dataset().to_table(columns=["id"])["id"].to_pylist()
    assert sorted(ids) == list(range(3000))
    assert set(ids[-3:]) == bad


def test_only_the_row_groups_of_the_sample_are_read(workplace: Workplace) -> None:
    (workplace.folder / "input").mkdir()
    noise = np.random.default_rng(0).bytes
    table = pa.table({"id": range(20_000), "x": range(20_000), "noise": [noise(200) for _ in range(20_000)]})
    pq.write_table(table, workplace.folder / "input/a.parquet", row_group_size=1000, compression="none")
    workplace.run(output={"carry": ["noise"]}, batching={"shard": 20_000})
    store = CountingStore(str(workplace.folder / "output"))
    job = jobs.current(store)
    assert job is not None
    found = sample(Results.find(store, {}, job.paths), job.paths, 2, 0)
    whole = (workplace.folder / "output/data").glob("*.parquet")
    assert len(found) == 2
    assert store.bytes < sum(p.stat().st_size for p in whole)  # one part of one row group, and no more than that
    before = read_by_this_process()
    workplace.opened().sample(1, columns=["noise"])
    of_input = read_by_this_process() - before - store.bytes
    assert of_input < (workplace.folder / "input/a.parquet").stat().st_size / 4


class CountingStore(LocalStore):
    """Counts what is read of it."""

    bytes = 0

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        data = super().read(path, start, stop)
        self.bytes += len(data)
        return data

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        count = super().read_into(path, start, target)
        self.bytes += count
        return count


def read_by_this_process() -> int:
    """Bytes."""
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar")]
    return int(line.split()[1])


def test_a_sample_narrows_the_input_and_takes_what_was_carried_as_it_was_written(workplace: Workplace) -> None:
    workplace.write(2000)
    run = workplace.run(output={"carry": ["id"]})
    assert run.sample(5, columns=["x"]).columns == ["id", "x", "y"]
    assert run.sample(5, columns=[]).columns == ["id", "y"]
    with pytest.raises(InputError, match=r"no input file has the column 'xx'; did you mean 'x'\?"):
        run.sample(5, columns=["xx"])
    with pytest.raises(ValueError, match="at least one row, not 0"):
        run.sample(0)


def test_an_input_column_that_has_the_name_of_an_output_is_told_from_it(workplace: Workplace) -> None:
    workplace.write(2000)
    run = workplace.run(model={"outputs": {"y": "x"}}, output={"carry": ["id"]})
    frame = run.sample(5)
    assert frame.columns == ["id", "x_input", "x"]
    assert (frame["x"] == 2 * frame["x_input"]).all()


def test_a_sample_of_a_job_without_a_prediction_is_empty(workplace: Workplace) -> None:
    workplace.write(0)
    run = workplace.run()
    assert run.sample(5).is_empty()
    assert run.dataset().count_rows() == 0
    assert run.dataset().schema.names == ["id", "y"]


def test_a_sample_and_a_dataset_of_a_run_that_goes_on_are_of_the_parts_so_far(workplace: Workplace) -> None:
    workplace.write(6000, bad={1})
    slow: dict[str, Any] = {"batching": {"shard": 500}, "model": {"options": {"delay": 0.02}}}
    run = workplace.run(run={"max_runtime": "2s"}, **slow, **ANY_DEAD)
    done = run.counts.succeeded
    assert 0 < done < 5999
    frame = run.sample(6000)
    assert len(frame) == done == run.dataset().count_rows()
    assert (frame["y"] == 2 * frame["x"]).all()


def test_an_input_that_changed_since_is_refused(workplace: Workplace) -> None:
    workplace.write(2000)
    run = workplace.run()
    workplace.write(2000, start=1)
    with pytest.raises(InputError, match=r"a sample reads the input, which must be as it was planned: .*a\.parquet"):
        run.sample(5)


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_a_part_that_is_gone_or_damaged_is_an_error_that_names_it(workplace: Workplace, damage: str) -> None:
    workplace.write(1000)
    run = workplace.run()
    (part,) = (workplace.folder / "output/data").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-1]) if damage == "cut off" else part.unlink()
    with pytest.raises(OutputError, match=part.name):
        run.sample(5)


def test_a_dataset_has_the_rows_of_the_results_whatever_lies_beside_them(workplace: Workplace) -> None:
    workplace.write(5000)
    run = workplace.run(output={"path": str(workplace.folder / "_out %20")})
    pq.write_table(pa.table({"id": [-1], "y": [0.0]}), workplace.folder / "_out %20/data/stray.parquet")
    assert pl.from_arrow(run.dataset().to_table()).equals(run.results().collect())  # type: ignore[union-attr]


def test_a_dataset_has_a_column_type_that_only_a_retry_found(workplace: Workplace) -> None:
    workplace.write(3, bad={0, 1, 2})
    workplace.run(**ANY_DEAD)
    workplace.mend()
    run = workplace.retry(**ANY_DEAD)
    assert run.dataset().to_table()["y"].to_pylist() == [-1.0] * 3
    assert run.sample(3)["y"].to_list() == [-1.0] * 3
