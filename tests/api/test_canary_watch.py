"""The times of a canary, by a clock that is told."""

from __future__ import annotations

import pyarrow as pa
import pytest

from batchinfer.api.canary_watch import CanaryWatch
from batchinfer.measure.settings import Settings
from batchinfer.run.events import Settled, Ticked
from batchinfer.run.stop import StopRequest
from batchinfer.worker.context import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def watched(*ends: tuple[float, int], stop: StopRequest | None = None) -> CanaryWatch:
    """A canary of rounds of four pieces of 10 and 40 rows, ready after 2 s, of which so many pieces were done after so many seconds."""
    clock = Clock()
    watch = CanaryWatch([4, 4], None, stop, clock=clock)
    clock.now = 52.0
    watch(Settled(Settings({}, pa.schema([])), 1))
    for seconds, pieces in ends:
        clock.now = 52.0 + seconds
        rows = 10 * min(pieces, 4) + 40 * max(0, pieces - 4)
        watch(Ticked([Progress(0, memory=100 * pieces, device_memory=7)], pieces, rows))
    return watch


def test_a_first_round_that_takes_long_enough_is_all_and_its_first_piece_is_left_out() -> None:
    watch = watched((1.0, 1), (2.0, 2), (3.1, 3), (4.0, 4))
    assert watch.ready == 2.0
    assert watch.has_seen_enough
    assert [mark.rows for mark in watch.last_round()] == [10, 20, 30, 40]
    assert [mark.seconds for mark in watch.last_round()] == pytest.approx([3.0, 4.0, 5.1, 6.0])
    assert (watch.memory, watch.device_memory) == (400, 7)


def test_it_does_not_end_before_the_first_round_has() -> None:
    assert not watched((5.0, 1), (9.0, 3)).has_seen_enough


def test_after_a_short_round_the_next_one_says_the_pace_from_where_that_ended() -> None:
    watch = watched((0.1, 2), (0.2, 4), (0.9, 5), (1.6, 6), (2.3, 7), (3.0, 8))
    assert watch.has_seen_enough
    assert [(mark.pieces, mark.rows) for mark in watch.last_round()] == [(4, 40), (5, 80), (6, 120), (7, 160), (8, 200)]
    assert [mark.seconds for mark in watch.last_round()] == pytest.approx([2.2, 2.9, 3.6, 4.3, 5.0])


def test_of_a_round_that_has_not_ended_nothing_counts() -> None:
    watch = watched((0.1, 2), (0.5, 4), (4.0, 5))
    assert watch.has_seen_enough
    assert [mark.pieces for mark in watch.last_round()] == [2, 4]


def test_pieces_that_end_together_are_one_mark() -> None:
    assert [mark.pieces for mark in watched((3.5, 4)).last_round()] == [0, 4]


def test_a_stop_of_somebody_else_is_no_end_of_its_own() -> None:
    stop = StopRequest()
    stop.ask("interrupted", cancelled=True)
    watch = watched((1.0, 1), stop=stop)
    assert (watch.stop.reason, watch.stop.cancelled, watch.has_seen_enough) == ("interrupted", True, False)
