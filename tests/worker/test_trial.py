"""A shard's files read in another process: what ends it there is told of the file, and ends nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.data.scan import scan
from batchinfer.errors import InputError, StoppedError
from batchinfer.job.spec import JobSpec
from batchinfer.plan.plan import Reading
from batchinfer.plan.shards import Shard, cut
from batchinfer.storage.paths import JobPaths
from batchinfer.worker.context import Context
from batchinfer.worker.trial import Trial
from tests.run import decoder

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])
WINDOW = 100


class Place:
    """Two files of 1,000 rows in one shard, and trials of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.stopping = threading.Event()
        self._made: list[Trial] = []
        (folder / "in").mkdir()
        for n, name in enumerate(("a", "b")):
            ids = range(1000 * n, 1000 * (n + 1))
            table = pa.table({"id": ids, "text": [f"text {i}" for i in ids]}, SCHEMA)
            pq.write_table(table, self.file(name), compression="none", use_dictionary=False, write_page_checksum=True)

    def file(self, name: str) -> Path:
        return self.folder / "in" / f"{name}.parquet"

    def dies(self, row: int, how: str) -> None:
        self._monkeypatch.syspath_prepend(decoder.site(self.folder, row, how))

    def shard(self) -> Shard:
        (shard,) = cut(scan(str(self.folder / "in")).files, None, None, 10_000)
        return shard

    def trial(self, schema: pa.Schema = SCHEMA, seconds: float = 60.0) -> Trial:
        job = {
            "version": 1,
            "name": "n",
            "input": {"path": str(self.folder / "in")},
            "steps": [{"engine": "python", "uri": "m:C", "inputs": {"x": "text"}, "outputs": {"y": "score"}}],
            "output": {"path": "/out"},
        }
        reading = Reading(schema, None, ("id",), None, WINDOW)
        context = Context(JobSpec.model_validate(job), reading, JobPaths("0123abcd"), 1)
        self._made.append(Trial(context, self.stopping, seconds))
        return self._made[-1]

    def close(self) -> None:
        for made in self._made:
            made.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(tmp_path, monkeypatch)
    yield place
    place.close()


def test_a_shard_that_can_be_read_passes_and_so_does_the_next_one(place: Place) -> None:
    trial = place.trial()
    trial.read(place.shard())
    trial.read(place.shard())
    assert trial.ended == 0


@pytest.mark.parametrize(("how", "told"), [(decoder.ABORTS, "SIGABRT"), (decoder.SEGFAULTS, "SIGSEGV")])
def test_a_file_that_ends_the_process_is_named_with_its_rows_and_the_signal(place: Place, how: str, told: str) -> None:
    place.dies(1550, how)
    trial = place.trial()
    with pytest.raises(InputError, match=rf"in/b\.parquet: reading rows 0 to 999 ended the process .*{told}") as caught:
        trial.read(place.shard())
    assert "a.parquet" not in str(caught.value)
    assert trial.ended == 1
    with pytest.raises(InputError, match="ended the process"):  # with another child
        trial.read(place.shard())


def test_a_file_that_takes_all_memory_is_named(place: Place) -> None:
    place.dies(550, decoder.FILLS)
    with pytest.raises(InputError, match=r"in/a\.parquet: .*MemoryError"):
        place.trial().read(place.shard())


def test_a_damaged_page_is_told_as_in_any_other_process(place: Place) -> None:
    data = bytearray(place.file("b").read_bytes())
    data[data.index(b"text 1500")] ^= 1
    place.file("b").write_bytes(data)
    trial = place.trial()
    with pytest.raises(
        InputError, match=r"in/b\.parquet: rows 0 to 999 can't be read \(row group 0, column 'text', OSE"
    ):
        trial.read(place.shard())
    assert trial.ended == 0


def test_a_reading_that_hangs_is_ended_after_its_time(place: Place) -> None:
    place.dies(550, decoder.HANGS)
    trial = place.trial(seconds=5.0)
    with pytest.raises(InputError, match=r"in/a\.parquet: reading rows 0 to 999 takes more than 5 s"):
        trial.read(place.shard())
    assert trial.ended == 1


def test_a_worker_that_is_to_stop_waits_for_no_reading(place: Place) -> None:
    place.dies(550, decoder.HANGS)
    threading.Timer(1.0, place.stopping.set).start()
    before = time.monotonic()
    with pytest.raises(StoppedError):
        place.trial().read(place.shard())
    assert time.monotonic() - before < 60


BOUND = """
import resource

resource.setrlimit(resource.RLIMIT_DATA, (700 << 20, resource.getrlimit(resource.RLIMIT_DATA)[1]))
"""


def test_a_file_of_kilobytes_whose_one_row_takes_a_gigabyte_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = pa.array(np.zeros(40_000_000, np.int8))
    lists = pa.LargeListArray.from_arrays(pa.array([0, len(values)]), values)
    pq.write_table(pa.table({"id": [0], "text": ["a"], "many": lists}), place.file("b"))
    assert place.file("b").stat().st_size < 100_000
    (place.folder / "site").mkdir()
    (place.folder / "site" / "sitecustomize.py").write_text(BOUND)
    monkeypatch.syspath_prepend(str(place.folder / "site"))
    with pytest.raises(InputError, match=r"in/b\.parquet: .*(MemoryError|more memory|ended the process)"):
        place.trial(pa.schema([*SCHEMA, ("many", lists.type)])).read(place.shard())
