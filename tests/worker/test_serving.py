"""A model that answers batches of others, as many at a time as there are streams."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from batchinfer.engines.travel import pack, unpack
from batchinfer.worker.device_thread import DeviceThread
from batchinfer.worker.serving import Answer, Packed, Serving
from batchinfer.worker.watched import Watched


class Meeting:
    """A model whose calls wait for so many at the same time."""

    def __init__(self, calls: int) -> None:
        self.barrier = threading.Barrier(calls)

    def infer(self, payload: Any) -> Any:
        self.barrier.wait(5)
        return payload


class Place:
    """A model's thread, with its streams, and who serves there."""

    def __init__(self, streams: int, meeting: Meeting, *, ready: bool = True) -> None:
        self.device = DeviceThread(lambda item: [item], queue.Queue(), lambda: None, holds_model=True)
        self.device.begin(streams, "test")
        self.thread = threading.Thread(target=self.device.run, daemon=True)
        self.thread.start()
        self.serving = Serving(cast(Watched, meeting), lambda: ready, self.device.inbox.put)
        self.serving.begin(streams)

    def ask(self, *shards: int) -> list[Answer]:
        with ThreadPoolExecutor(len(shards)) as callers:
            return list(callers.map(lambda shard: self.serving.infer(shard, pack(shard)), shards))

    def end(self) -> None:
        self.device.inbox.put(None)
        self.device.writing_ended()
        self.thread.join(5)
        assert not self.thread.is_alive()
        self.device.close()


@pytest.fixture(name="two")
def _two() -> Iterator[Place]:
    place = Place(2, Meeting(2))
    yield place
    place.end()


def test_a_model_with_two_streams_answers_two_batches_at_a_time(two: Place) -> None:
    answers = two.ask(7, 8, 7, 8)
    assert [unpack(cast(Packed, answer.outputs)) for answer in answers] == [7, 8, 7, 8]
    assert two.serving.served.batches == 4


def test_a_model_with_one_stream_answers_one_batch_at_a_time() -> None:
    meeting = Meeting(2)
    place = Place(1, meeting)
    (first, second) = [threading.Thread(target=place.ask, args=(shard,)) for shard in (7, 8)]
    first.start()
    second.start()
    while not meeting.barrier.n_waiting:
        pass
    assert place.serving.shard in (7, 8)
    assert not meeting.barrier.broken
    assert meeting.barrier.n_waiting == 1, "the other one waits for its turn"
    meeting.barrier.abort()
    first.join(5)
    second.join(5)
    place.end()
    assert place.serving.served.waited > 0


def test_half_of_the_streams_is_half_busy(two: Place) -> None:
    meeting = cast(Meeting, two.serving.engine)
    asking = threading.Thread(target=two.ask, args=(7,))
    before = two.serving.served
    asking.start()
    while not meeting.barrier.n_waiting:
        pass
    begun = two.serving.served
    threading.Event().wait(0.2)
    then = two.serving.served
    meeting.barrier.abort()
    asking.join(5)
    assert begun.busy - before.busy < 0.2
    assert then.busy - begun.busy == pytest.approx(then.idle - begun.idle)
    assert then.busy - begun.busy >= 0.1


def test_a_batch_for_a_model_that_is_not_loaded_is_sent_back() -> None:
    place = Place(1, Meeting(1), ready=False)
    (answer,) = place.ask(7)
    place.end()
    assert answer.outputs is None
    assert place.serving.served.batches == 0
