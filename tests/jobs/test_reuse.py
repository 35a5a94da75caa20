"""The example jobs that compute nothing twice."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.jobs.test_examples import jobs as jobs
from tests.jobs.test_examples import python, run


@pytest.mark.slow
def test_what_was_predicted_is_kept_for_the_next_run(jobs: Path) -> None:
    given = pl.read_parquet(jobs / "data/speeches.parquet").filter(pl.col("text").str.len_chars() < 80)
    first = run(jobs / "cached.yaml")
    usage = first["usage"]["steps"]["model"]
    assert (usage["rows"], usage["reused"]) == (given["text"].n_unique(), len(given) - given["text"].n_unique())
    before = pl.read_parquet(jobs / "out/cached/data/*.parquet")
    second = run(jobs / "cached.yaml", "--restart")
    usage = second["usage"]["steps"]["model"]
    assert (usage["rows"], usage["batches"], usage["reused"]) == (0, 0, len(given))
    assert pl.read_parquet(jobs / "out/cached/data/*.parquet").equals(before)


def test_each_run_predicts_the_years_that_came_since(jobs: Path) -> None:
    rows = 0
    for n in range(3):
        python(str(jobs / "make_years.py"))
        result = run(jobs / "incremental.yaml")
        files = sorted((jobs / "generated/years").glob("*.parquet"))
        assert len(files) == n + 1
        assert result["usage"]["rows"] == len(pl.read_parquet(files[-1]))
        rows += len(pl.read_parquet(files[-1]))
        assert result["rows"]["succeeded"] == rows
        assert ("1 file new" in result.get("changes", "")) == (n > 0)
    frame = pl.read_parquet(jobs / "out/incremental/data/*.parquet")
    assert sorted(frame["id"]) == sorted(pl.read_parquet(jobs / "generated/years/*.parquet")["id"])
