"""Streams and batch budgets are tried on a job's rows, with an engine whose times a test sets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from batchinfer.engines.protocol import Description, Rows
from batchinfer.errors import ModelError
from batchinfer.measure.fit import Fit, Fitting
from batchinfer.measure.remembered import Remembered
from batchinfer.pipeline.batching import Budget, positions

NOBODY = Remembered(Path("/nowhere"))


class Prepared:
    truncated: NDArray[np.bool_] | None = None

    def __init__(
        self, values: list[int], lengths: NDArray[np.int64] | None, row_bytes: int | None, taken: Callable[[], None]
    ) -> None:
        self.values, self.lengths, self.row_bytes, self._taken = values, lengths, row_bytes, taken

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, rows: Rows) -> list[int]:
        self._taken()
        return [self.values[n] for n in (positions(rows) if isinstance(rows, slice) else rows)]


class Sleeper:
    """A model that takes as long as `seconds` says of a batch's rows and the threads that it is loaded with, by a clock of its own.

    Each thread that calls it has its own time; a real millisecond lets the others come between.
    """

    def __init__(
        self,
        seconds: Callable[[int, int], float],
        *,
        lengths: bool = False,
        fails: Callable[[list[int]], None] = len,
        row_bytes: int | None = None,
        preparing: float = 0.0,
    ) -> None:
        self._seconds, self._lengths, self._fails = seconds, lengths, fails
        self._row_bytes, self._preparing = row_bytes, preparing
        self.threads = 0
        self.calls = 0
        self._now = threading.local()
        self.callers: set[str] = set()

    def load(self, device: str, precision: str, threads: int) -> Description:
        self.threads = threads
        return Description({"y": pa.float64()}, precision, device)

    def prepare(self, rows: pa.Table) -> Prepared:
        values = rows["x"].to_pylist()
        if -1 in values:
            raise ValueError("a bad row")
        lengths = np.full(len(values), 10, np.int64) if self._lengths else None
        return Prepared(values, lengths, self._row_bytes, self._prepares)

    def _prepares(self) -> None:
        self._now.seconds = self.clock() + self._preparing

    def infer(self, batch: list[int]) -> list[int]:
        self.calls += 1
        self.callers.add(threading.current_thread().name)
        self._fails(batch)
        time.sleep(0.001)
        self._now.seconds = self.clock() + self._seconds(len(batch), self.threads)
        return batch

    def clock(self) -> float:
        return getattr(self._now, "seconds", 0.0)

    def finish(self, outputs: list[int]) -> Mapping[str, pa.Array]:
        return {"y": pa.array([float(n) for n in outputs])}


def fitted(
    engine: Sleeper,
    budget: Budget,
    knob: str | None = None,
    threads: int = 1,
    row_seconds: float = 1e-4,
    seconds: float = 60.0,
    values: Any = range(512),
    remembered: Remembered = NOBODY,
    key: Mapping[str, Any] | None = None,
    calls: int = 1,
) -> Fit:
    engine.load("cpu", "fp32", threads // calls)

    def load(each: int) -> object:
        return engine.load("cpu", "fp32", each)

    rows = pa.table({"x": pa.array(list(values), pa.int64())})
    return Fitting(
        engine, load, rows, budget, knob, threads, calls, row_seconds, seconds, remembered, key or {}, engine.clock
    ).fit()


def narrow(_rows: int, threads: int) -> float:
    """Two threads in one call save a tenth."""
    return 0.01 if threads == 1 else 0.009


def test_two_streams_are_taken_where_they_are_faster_and_the_model_is_left_loaded_for_them() -> None:
    fit = fitted(engine := Sleeper(narrow), Budget(64), threads=2)
    assert (fit.streams, engine.threads) == (2, 1)
    paces = fit.figures["streams"]
    assert paces["2"] > 1.1 * paces["1"]
    assert {name for name in engine.callers if name.startswith("batchinfer-fit")} == {
        "batchinfer-fit-0",
        "batchinfer-fit-1",
    }


def test_at_the_same_pace_calls_are_of_fewer_threads_as_they_wait_for_each_other_less() -> None:
    fit = fitted(engine := Sleeper(lambda _, threads: 0.02 / threads), Budget(64), threads=2)
    assert (fit.streams, engine.threads) == (2, 1)


def test_one_stream_stays_where_two_are_slower() -> None:
    fit = fitted(engine := Sleeper(lambda _, threads: 0.02 / threads**1.2), Budget(64), threads=2)
    assert (fit.streams, engine.threads) == (1, 2)


def test_a_stream_that_has_nothing_left_to_do_does_not_count_against_the_others() -> None:
    """Three batches over two streams: the last leaves one of them without work, which it has in a job."""
    fit = fitted(engine := Sleeper(lambda _, threads: 0.02 / threads), Budget(64), threads=2, values=range(5 * 64))
    assert (fit.streams, engine.threads) == (2, 1)


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        (lambda n, _: 0.004 + (n > 64) * 0.05, 64),
        (lambda n, _: 0.0001 * n + (n > 32) * 0.0002 * n, 32),
        (lambda n, _: 0.01, 256),
    ],
    ids=["larger ones are slow", "smaller ones are faster", "a call costs the same whatever its rows"],
)
def test_the_rows_of_a_batch_go_where_they_are_faster(seconds: Callable[[int, int], float], rows: int) -> None:
    fit = fitted(Sleeper(seconds), Budget(64), "rows")
    assert fit.budget == Budget(rows)
    assert fit.figures["rows"].keys() >= {"64", "128"}


def test_tokens_are_what_is_turned_where_rows_have_lengths() -> None:
    fit = fitted(Sleeper(lambda _n, _t: 0.01, lengths=True), Budget(512, 512), "tokens")
    assert fit.budget == Budget(
        512, 4096
    )  # of 5,120 tokens in all: the next one makes one batch, which says too little


def test_what_does_not_fit_into_memory_is_not_taken() -> None:
    def fails(batch: list[int]) -> None:
        if len(batch) > 64:
            raise MemoryError

    fit = fitted(Sleeper(lambda _n, _t: 0.002, fails=fails), Budget(64), "rows")
    assert fit.budget == Budget(64)
    assert fit.figures["rows"]["128"] is None


@pytest.mark.parametrize(
    "job", [{"seconds": 0.0}, {"values": [-1, *range(511)]}, {"values": range(60)}], ids=["no time", "a bad row", "few"]
)
def test_where_nothing_can_be_tried_the_defaults_stay(job: dict[str, Any]) -> None:
    fit = fitted(engine := Sleeper(narrow), Budget(64), "rows", threads=2, **job)
    assert fit == Fit(Budget(64))
    assert engine.threads == 2
    assert engine.calls == 0


def test_no_more_time_is_spent_than_there_is() -> None:
    engine = Sleeper(lambda n, _: 1e-4 * n)
    fit = fitted(engine, Budget(16), "rows", row_seconds=1e-4, seconds=0.6, values=range(9999))
    assert engine.clock() < 0.75  # a try that began in time may end a little later
    assert {name for name, pace in fit.figures["rows"].items() if pace is not None} >= {"16", "32", "8"}


def test_a_later_run_takes_over_what_was_found_without_a_call(tmp_path: Path) -> None:
    remembered, key = Remembered(tmp_path), {"model": "abc"}
    first = fitted(Sleeper(narrow), Budget(64), "rows", 2, remembered=remembered, key=key)
    again = fitted(engine := Sleeper(narrow), Budget(64), "rows", 2, remembered=remembered, key=key)
    assert (again.budget, again.streams, engine.calls) == (first.budget, first.streams, 0)
    assert engine.threads == 2 // first.streams
    assert again.figures["known_before"]
    other = fitted(engine := Sleeper(narrow), Budget(64), "rows", 2, remembered=remembered, key={"model": "abd"})
    assert engine.calls > 0
    assert "known_before" not in other.figures


def test_what_a_short_job_had_no_time_to_try_is_tried_by_a_long_one(tmp_path: Path) -> None:
    remembered, key = Remembered(tmp_path), {"model": "abc"}
    short = fitted(Sleeper(narrow), Budget(64), threads=2, seconds=0.09, remembered=remembered, key=key)
    assert short.streams == 1
    assert short.figures["streams"]["2"] is None
    long = fitted(Sleeper(narrow), Budget(64), threads=2, remembered=remembered, key=key)
    assert long.streams == 2
    assert "known_before" not in long.figures


def test_what_is_no_rows_fault_ends_the_fitting_from_any_stream() -> None:
    def fails(_batch: list[int]) -> None:
        if threading.current_thread().name.startswith("batchinfer-fit"):
            raise ModelError("wrong")

    with pytest.raises(ModelError, match="wrong"):
        fitted(Sleeper(narrow, fails=fails), Budget(64), threads=2)


def test_no_more_rows_are_in_memory_than_may_be() -> None:
    """Of 512 rows of 4 MiB each, 64: no batch of 64 or more is tried, since one alone says nothing."""
    fit = fitted(Sleeper(lambda rows, _: 0.01 + rows * 1e-9, row_bytes=4 << 20), Budget(4), "rows")
    assert fit.budget.rows == 32
    assert fitted(Sleeper(lambda rows, _: 0.01 + rows * 1e-9), Budget(4), "rows").budget.rows == 256


def test_the_time_that_batches_take_to_be_made_counts() -> None:
    """Each try makes 512 / rows batches of a second; the model takes next to nothing."""
    engine = Sleeper(lambda rows, _: 0.01 + rows * 1e-9, preparing=1.0)
    fitted(engine, Budget(128), "rows", seconds=7.0)
    assert engine.clock() < 5.0  # after the first try there is no time for another
