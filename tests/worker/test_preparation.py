"""Preparation by the user's own code: its bad rows are found, and no more is prepared than the model can take."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import Job, Run

MODEL = """
import os
import threading
import time

READY, MOST = [], []
LOCK = threading.Lock()


class Model:
    def __init__(self, delay=0.0):
        self.delay = delay

    @staticmethod
    def prepare(batch):
        if 13 in batch["x"]:
            raise ValueError("thirteen")
        if 14 in batch["x"] and os.environ.get("KILLS"):
            os._exit(3)
        with LOCK:
            READY.append(len(batch["x"]))
        return {"doubled": batch["x"] * 2}

    def __call__(self, batch):
        time.sleep(self.delay)
        with LOCK:
            MOST.append(len(READY))
            READY.pop()
        return {"y": batch["doubled"] + 1}
"""


def ran(folder: Path, rows: int, **options: float) -> tuple[Run, list[tuple[int, int]]]:
    (folder / "preparing.py").write_text(MODEL)
    if not (folder / "in.parquet").exists():
        pq.write_table(pa.table({"x": pa.array(range(rows), pa.int64())}), folder / "in.parquet")
    run = Job(
        name="preparing",
        code=[str(folder)],
        input={"path": str(folder / "in.parquet")},
        model={
            "engine": "python",
            "uri": "preparing:Model",
            "inputs": {"x": "x"},
            "outputs": {"y": {"column": "y", "type": "int64"}},
            "options": options,
        },
        batching={"rows": 10, "window": 400, "shard": 400},
        errors={"threshold": -1},
        output={"path": str(folder / "out")},
    ).run()
    table = pq.read_table(folder / "out/data")
    return run, sorted(zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True))


def test_a_row_that_preparation_raises_for_is_one_dead_letter(tmp_path: Path) -> None:
    run, rows = ran(tmp_path, 400)
    assert (run.counts.succeeded, run.counts.dead) == (399, 1)
    assert rows == [(x, 2 * x + 1) for x in range(400) if x != 13]
    (letter,) = run.errors().to_dicts()
    assert (letter["error_type"], letter["message"], letter["attempts"]) == ("ValueError", "thirteen", 2)


def test_batches_are_prepared_as_the_model_takes_them(tmp_path: Path) -> None:
    ran(tmp_path, 400, delay=0.005)
    import preparing

    assert len(preparing.MOST) >= 40
    assert max(preparing.MOST) <= 6, "a window has forty batches"


def test_a_row_that_ends_the_process_while_it_is_prepared_is_one_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    monkeypatch.setenv("KILLS", "1")
    monkeypatch.setenv("HERE", str(tmp_path))
    code = (
        "import os; from pathlib import Path; from tests.worker.test_preparation import ran\n"
        "run, rows = ran(Path(os.environ['HERE']), 400)\n"
        "assert (run.counts.succeeded, run.counts.dead) == (398, 2), run.counts\n"
    )
    ends = [subprocess.run([sys.executable, "-c", code], check=False).returncode for _ in range(3)]
    assert ends == [3, 3, 0]
