"""A finished job, and a copy of its output for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.run.workplace import Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A finished job with everything in it: partitions, pruned row groups, filtered and dead rows, NaN, dictionaries, a limit."""
    workplace = Workplace(tmp_path_factory.mktemp("made"))
    for day, start in (("1", 0), ("2", 3000)):
        (workplace.folder / "input" / f"day={day}").mkdir(parents=True)
        ids = np.arange(start, start + 3000)
        x = pa.array([None if n in (70, 2999, 4000) else int(n) for n in ids], pa.int64())
        table = pa.table(
            {
                "id": ids,
                "x": x,
                "score": np.where(ids % 10 == 0, np.nan, ids / 7),
                "kind": pa.array([f"k{n % 3}" for n in ids]).dictionary_encode(),
                "tags": [[str(n)] * (n % 3) for n in ids.tolist()],
            }
        )
        pq.write_table(table, workplace.folder / "input" / f"day={day}" / "a.parquet", row_group_size=500)
    run = workplace.run(
        input={"where": "id < 1500 OR id > 2600", "limit": 5100}, output={"carry": "all"}, errors={"threshold": 3}
    )
    assert (run.exit_code, run.counts.dead, run.counts.filtered) == (0, 3, 1101)
    return workplace


@pytest.fixture
def output(made: Workplace, tmp_path: Path) -> Path:
    """A copy of it, which a test may alter."""
    return Path(shutil.copytree(made.folder / "output", tmp_path / "copy"))
