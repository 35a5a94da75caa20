"""The course of a run: bounded, whatever its length, and true at both ends."""

from __future__ import annotations

from itertools import pairwise

from batchinfer.report.watch import SAMPLES, SEGMENTS, Watch
from batchinfer.run.events import Ticked
from batchinfer.worker.context import Progress, Seconds


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watched(ticks: int, workers: int, shard_ticks: int) -> dict:
    """The course of a run of a tick a second, in which each worker goes from shard to shard."""
    clock = Clock()
    watch = Watch(clock)
    for tick in range(ticks):
        clock.now = float(tick)
        progress = [
            Progress(
                n, shard=workers * (tick // shard_ticks) + n, rows=tick, in_hand=tick % 7, seconds=Seconds(infer=tick)
            )
            for n in range(workers)
        ]
        watch(Ticked(progress, tick, 10 * tick))
    return watch.to_json()


def test_a_short_run_is_kept_tick_by_tick():
    course = watched(20, workers=2, shard_ticks=5)
    assert [seconds for seconds, _ in course["throughput"]] == [float(n) for n in range(20)]
    first, second = course["crew"]
    assert [s["shard"] for s in first["segments"]] == [0, 2, 4, 6]
    assert [s["shard"] for s in second["segments"]] == [1, 3, 5, 7]
    assert [(s["begin"], s["end"]) for s in first["segments"]] == [(0, 5), (5, 10), (10, 15), (15, 19)]
    assert first["rows"] == 19
    assert first["seconds"]["infer"] == 19


def test_a_long_run_is_kept_in_bounds_from_its_beginning_to_its_end():
    course = watched(20_000, workers=3, shard_ticks=2)
    times = [seconds for seconds, _ in course["throughput"]]
    assert SAMPLES / 4 <= len(times) <= SAMPLES + 1
    assert times == sorted(times)
    assert (times[0], times[-1]) == (0.0, 19_999.0)
    rows = [rows for _, rows in course["throughput"]]
    assert rows == sorted(rows)
    segments = [worker["segments"] for worker in course["crew"]]
    assert SEGMENTS / 4 <= sum(map(len, segments)) <= SEGMENTS
    for lane in segments:
        assert (lane[0]["begin"], lane[-1]["end"]) == (0, 19_999)
        assert all(a["end"] == b["begin"] for a, b in pairwise(lane))
        assert sum(s["shards"] for s in lane) == 10_000  # joined, and none lost


def test_samples_of_a_long_run_are_about_evenly_spread():
    times = [seconds for seconds, _ in watched(20_000, workers=1, shard_ticks=50)["throughput"]]
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) <= 4 * 20_000 / SAMPLES


def test_what_a_worker_does_without_a_shard_is_what_it_says():
    clock = Clock()
    watch = Watch(clock)
    for now, progress in enumerate(
        [
            Progress(0, note="loading"),
            Progress(0, 3),
            Progress(0, note="restarting"),
            Progress(0, 3),
            Progress(0, note="idle"),
        ]
    ):
        clock.now = float(now)
        watch(Ticked([progress], 0, 0))
    (worker,) = watch.to_json()["crew"]
    assert [(s["state"], s["shard"]) for s in worker["segments"]] == [
        ("loading", None),
        ("running", 3),
        ("restarting", None),
        ("running", 3),
    ]  # the last has no length yet
