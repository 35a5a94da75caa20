"""A whole job on an object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import Job, Run, open_run
from batchinfer.errors import FingerprintError, InputError
from batchinfer.run.events import Finished
from tests.run.workplace import Workplace

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint(s3_server: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield s3_server


class Lake:
    """A job whose input and output lie in a folder of the bucket."""

    def __init__(self, workplace: Workplace, endpoint: str, folder: str) -> None:
        self.workplace, self.root = workplace, f"s3://lake/{folder}"
        self.storage = {"s3://lake/": {"endpoint_url": endpoint}}
        self.fs = fsspec.filesystem("s3", endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True)

    def write(self, rows: int, name: str, start: int = 0, bad: frozenset[int] = frozenset()) -> None:
        x = [None if n in bad else n for n in range(start, start + rows)]
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.table({"id": range(start, start + rows), "x": pa.array(x, pa.int64())}), sink, row_group_size=500
        )
        self.fs.pipe_file(f"{self.root}/input/{name}", sink.getvalue().to_pybytes())

    def run(self, **sections: Any) -> Run:
        events = sections.pop("events", None)
        places = {"input": {"path": f"{self.root}/input/", "key": "id"}, "output": {"path": f"{self.root}/output/"}}
        for name in places:
            places[name] |= sections.pop(name, {})
        fields = self.workplace.fields(**places, storage=self.storage, **sections)
        return Job(**fields).run(listener=None if events is None else events.append)

    def names(self, below: str = "") -> list[str]:
        return sorted(name.partition("/output/")[2] for name in self.fs.find(f"{self.root}/output/{below}"))


@pytest.fixture
def lake(tmp_path: Path, endpoint: str) -> Lake:
    return Lake(Workplace(tmp_path), endpoint, tmp_path.name)


def test_a_job_on_an_object_store_gives_every_row_once_and_in_order(lake: Lake) -> None:
    lake.write(3000, "day=1/a.parquet")
    lake.write(3000, "day=2/a.parquet", start=3000, bad=frozenset({4000}))
    run = lake.run(errors={"threshold": 1}, output={"carry": ["id", "day"]})
    assert (run.exit_code, run.counts.succeeded, run.counts.dead) == (0, 5999, 1)
    frame = run.results().collect()
    assert frame["id"].to_list() == [n for n in range(6000) if n != 4000]
    assert frame["day"].to_list() == [1] * 3000 + [2] * 2999
    assert run.errors()["source_file"].to_list() == [f"{lake.root}/input/day=2/a.parquet"]
    assert lake.names("data")[0] == "data/_SUCCESS"
    assert not any("/wip/" in name or "probe" in name for name in lake.names())
    assert (run.verify(deep=True).findings, run.verify(deep=True).notes) == ([], [])


def test_it_resumes_where_parts_and_manifest_are_missing(lake: Lake) -> None:
    lake.write(6000, "a.parquet")
    first = lake.run()
    contents = {name: lake.fs.cat_file(f"{lake.root}/output/{name}") for name in lake.names("data")}
    lost = sorted(name for name in contents if name.endswith(".parquet"))[1]
    for name in [lost, "data/_SUCCESS", *(n for n in lake.names() if "manifests" in n)]:
        lake.fs.rm_file(f"{lake.root}/output/{name}")
    again = lake.run()
    assert (again.exit_code, again.counts) == (0, first.counts)
    assert {name: lake.fs.cat_file(f"{lake.root}/output/{name}") for name in lake.names("data")} == contents
    events: list[Any] = []
    lake.run(events=events)
    assert [type(e) for e in events] == [Finished]


def test_an_object_that_changed_is_found_by_its_etag(lake: Lake) -> None:
    lake.write(1000, "a.parquet")
    lake.run()
    lake.write(1000, "a.parquet", start=1)
    with pytest.raises(FingerprintError, match=r"input\.files"):
        lake.run()


def test_an_empty_prefix_is_an_input_error(lake: Lake) -> None:
    with pytest.raises(InputError, match="input"):
        lake.run(input={"path": f"{lake.root}/nothing/"})


def test_the_run_is_opened_with_its_storage_options(lake: Lake) -> None:
    lake.write(100, "a.parquet")
    lake.run(input={"where": "x < 10"})
    run = open_run(f"{lake.root}/output", lake.storage)
    assert run.results().select(pl.len()).collect().item() == 10
    assert run.counts.filtered == 90


def test_dead_rows_are_retried_from_the_recorded_job(lake: Lake) -> None:
    lake.write(3000, "day=1/a.parquet", bad=frozenset({7}))
    lake.write(3000, "day=2/a.parquet", start=3000, bad=frozenset({4000, 4001}))
    assert lake.run(output={"carry": ["id", "day"]}).exit_code == 3
    lake.workplace.mend()
    run = open_run(f"{lake.root}/output", lake.storage).retry()
    assert (run.exit_code, run.counts.succeeded, run.counts.dead) == (0, 6000, 0)
    frame = run.results().collect()
    assert frame["id"].to_list() == list(range(6000))
    assert frame["day"].to_list() == [1] * 3000 + [2] * 3000
    assert run.results().filter(pl.col("y") < 0).collect()["id"].to_list() == [7, 4000, 4001]


def test_outputs_there_are_compared_and_a_profile_is_kept_there(lake: Lake, endpoint: str, tmp_path: Path) -> None:
    from batchinfer.api.drifting import drift_of, load_profile, save_profile

    lake.write(3000, "a.parquet", bad=frozenset({7}))
    one = lake.run(errors={"threshold": 1})
    lake.workplace.edit("2.0 * float(value)", "2.0 * float(value) + 1000.0 * (value > 2000)")
    two = lake.run(errors={"threshold": 1}, output={"path": f"{lake.root}/other/"})
    made = one.compare(two)
    assert (made.rows.both, made.rows.dead_in_both, made.columns[0].agreeing) == (2999, 1, 2000)
    assert one.compare(two, key="id").rows == made.rows
    saved = f"{lake.root}/profile.json"
    save_profile(one.profile(), saved, lake.storage)
    assert load_profile(saved, lake.storage) == one.profile()
    assert drift_of(two, saved, total_variation=0.1, storage=lake.storage).exit_code == 3
    assert drift_of(one, saved, total_variation=0.0, storage=lake.storage).exit_code == 0
