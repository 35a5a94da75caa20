from __future__ import annotations

import pytest

from batchinfer.executors.scaling import Stretch, target


@pytest.mark.parametrize(
    ("actors", "busy", "waited", "wanted"),
    [
        (1, 9.9, 30.0, 2),  # it never rests, and many batches wait
        (1, 9.9, 9.5, 2),  # it never rests, and the next batch has always come: more than that one worker never sends
        (1, 9.9, 3.0, 1),  # it never rests, but hardly a batch waits
        (1, 5.0, 30.0, 1),  # batches came in a bunch
        (3, 10.0, 0.0, 2),  # two would be busy for half of their time
        (3, 15.0, 0.0, 3),
        (1, 0.0, 0.0, 1),
        (4, 39.9, 99.0, 4),
    ],
)
def test_a_pool_grows_where_batches_wait_and_shrinks_where_fewer_would_do(
    actors: int, busy: float, waited: float, wanted: int
) -> None:
    assert target(1, 4, Stretch(actors, seconds=10.0, batches=100, busy=busy, waited=waited)) == wanted


def test_a_pool_comes_back_between_its_bounds() -> None:
    assert target(2, 4, Stretch(1, seconds=10.0, batches=0, busy=0.0, waited=0.0)) == 2
