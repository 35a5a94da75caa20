"""The prediction cache between workers of Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.run.workplace import Workplace


@pytest.mark.ray
def test_workers_on_ray_keep_what_they_predict_for_a_second_run(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    (tmp_path / "input").mkdir()
    x = [(n * 7919) % 700 for n in range(5000)]
    pq.write_table(pa.table({"id": range(5000), "x": x}), tmp_path / "input" / "a.parquet")
    outputs = {"y": {"column": "y", "type": "float64"}}
    for output, least, most in (("a", 700, 1400), ("b", 0, 0)):  # each worker asks for itself
        run = place.run(
            cache={"path": str(tmp_path / "cache")},
            model={"outputs": outputs},
            resources={"executor": "ray", "workers": 2, "cpus": 1},
            output={"path": str(tmp_path / output)},
        )
        usage = run.record["usage"]["steps"]["model"]
        assert least <= usage["rows"] <= most
        assert usage["rows"] + usage["reused"] == 5000
        assert run.results().collect()["y"].to_list() == [2.0 * v for v in x]
