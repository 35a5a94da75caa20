"""The Python door: the same words as the terminal's."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import batchinfer
from batchinfer import BatchinferError, Job, JobFileError, open_run
from batchinfer.errors import OutputError
from batchinfer.run.events import State
from batchinfer.run.stop import StopRequest
from tests.run.workplace import Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_the_public_names_are_all_there_and_sorted() -> None:
    assert batchinfer.__all__ == sorted(batchinfer.__all__)
    assert all(getattr(batchinfer, name) is not None for name in batchinfer.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        batchinfer.nonsense  # noqa: B018


def test_a_job_of_keyword_arguments_is_checked_like_a_file() -> None:
    with pytest.raises(JobFileError) as caught:
        Job(name="x", inputs={"path": "a"}, model={"engine": "pythn"}, output={"path": "b"})
    assert len(caught.value.problems) >= 3
    assert "input" in str(caught.value)


def test_plan_and_run_show_themselves_in_a_notebook(workplace: Workplace) -> None:
    workplace.write(1000)
    job = Job(**workplace.fields())
    assert "1,000" in job.plan()._repr_html_()
    run = job.run()
    assert "succeeded" in run._repr_html_()
    assert "1000 of 1000" in repr(run)


def test_a_run_is_opened_from_its_output_alone(workplace: Workplace) -> None:
    workplace.write(1000, bad={1})
    workplace.run()
    run = open_run(str(workplace.folder / "output"))
    assert (run.state, run.exit_code, run.counts.dead) == (State.PARTIAL, 3, 1)
    assert run.errors()["key"].to_list() == ["1"]
    assert run.results().select(pl.len()).collect().item() == 999
    with pytest.raises(OutputError, match="no job"):
        open_run(workplace.folder / "elsewhere")


def test_a_stop_request_from_another_thread_ends_the_run_resumably(workplace: Workplace) -> None:
    workplace.write(6000)
    job = Job(**workplace.fields(model={"options": {"delay": 0.02}}))
    stop = StopRequest()
    timer = threading.Timer(2.0, stop.ask, ("enough for today",))
    timer.start()
    begin = time.monotonic()
    run = job.run(stop=stop)
    assert time.monotonic() - begin < 20
    assert (run.state, run.exit_code) == (State.INTERRUPTED, 75)
    assert run.record["errors"] == ["enough for today"]
    assert 0 < run.counts.not_attempted <= 6000
    assert job.run().counts.succeeded == 6000


def test_max_runtime_ends_the_run_resumably(workplace: Workplace) -> None:
    workplace.write(6000)
    sections: dict[str, Any] = {"model": {"options": {"delay": 0.02}}}
    run = workplace.run(run={"max_runtime": "1s"}, **sections)
    assert (run.state, run.exit_code) == (State.INTERRUPTED, 75)
    assert "max_runtime" in run.record["errors"][0]
    assert workplace.run(**sections).exit_code == 0


def test_abort_ends_at_the_first_shard_over_the_threshold(workplace: Workplace) -> None:
    workplace.write(20_000, bad={5})
    run = workplace.run(errors={"on_exceed": "abort"}, model={"options": {"delay": 0.005}})
    assert (run.state, run.exit_code) == (State.FAILED, 3)
    assert run.counts.not_attempted > 0


@pytest.mark.parametrize("kind", ["polars", "arrow"])
def test_map_predicts_a_frame_in_memory(workplace: Workplace, kind: str) -> None:
    table = pa.table({"x": [3, 1, 2], "name": ["c", "a", "b"]})
    frame = pl.from_arrow(table) if kind == "polars" else table
    model = {"engine": "python", "uri": "doubling:Double", "inputs": {"x": "x"}, "outputs": {"y": "double"}}
    result = batchinfer.map(frame, model=model, code=[str(workplace.folder / "code")])
    assert type(result) is type(frame)
    rows = result.to_dicts() if isinstance(result, pl.DataFrame) else result.to_pylist()
    assert rows == [
        {"x": 3, "name": "c", "double": 6.0},
        {"x": 1, "name": "a", "double": 2.0},
        {"x": 2, "name": "b", "double": 4.0},
    ]


def test_map_says_which_row_failed_or_leaves_it_null(workplace: Workplace) -> None:
    frame = pl.DataFrame({"x": [1, None, 3]})
    model = {"engine": "python", "uri": "doubling:Double", "inputs": {"x": "x"}, "outputs": {"y": "y"}}
    code = [str(workplace.folder / "code")]
    with pytest.raises(
        BatchinferError, match="1 of 3 rows can't be predicted; the first is row 1: TypeError: x is null"
    ):
        batchinfer.map(frame, model=model, code=code)
    assert batchinfer.map(frame, model=model, code=code, errors="null")["y"].to_list() == [2.0, None, 6.0]


def test_a_run_works_inside_a_running_event_loop(workplace: Workplace) -> None:
    import asyncio

    workplace.write(100)

    async def cell() -> int | None:
        return workplace.run().exit_code

    assert asyncio.run(cell()) == 0
