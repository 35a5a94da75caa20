"""What is told of each worker while a run goes on, and when it may end."""

from __future__ import annotations

import pytest

from batchinfer.cli.live import _of
from batchinfer.report.crew import Crew
from batchinfer.report.figures import span
from batchinfer.report.tally import Tally
from batchinfer.run.events import Ticked
from batchinfer.worker.context import Progress, Seconds, Served


class Told:
    """A crew that is told of one worker, second by second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.crew = Crew(lambda: self.now)

    def at(self, now: float, progress: Progress) -> float | None:
        self.now = now
        self.crew(Ticked([progress], 0, 0))
        return self.crew.busy(progress.worker)


def test_a_device_is_busy_when_it_does_not_wait_of_late():
    told = Told()
    assert told.at(0.0, Progress(0, 1)) is None
    assert told.at(5.0, Progress(0, 1, seconds=Seconds(infer=4.0, wait=1.0))) == pytest.approx(0.8)
    assert told.at(10.0, Progress(0, 1, seconds=Seconds(infer=4.0, wait=6.0))) == pytest.approx(0.4)
    assert told.at(20.0, Progress(0, 1, seconds=Seconds(infer=14.0, wait=6.0))) == pytest.approx(
        1.0
    )  # of the last 10 s


def test_a_worker_without_a_shard_or_another_one_of_its_number_has_no_share():
    told = Told()
    told.at(0.0, Progress(0, 1))
    assert told.at(5.0, Progress(0, None, seconds=Seconds(wait=5.0))) is None
    assert told.at(6.0, Progress(0, 1, seconds=Seconds(wait=5.5))) is not None
    assert told.at(7.0, Progress(0, 1)) is None  # begins at nothing
    assert told.crew.busy(7) is None


def test_a_model_actor_is_busy_with_what_others_send_it():
    told = Told()
    told.at(0.0, Progress(3, served=Served(busy=1.0, idle=1.0)))
    assert told.at(4.0, Progress(3, served=Served(busy=4.0, idle=2.0))) == pytest.approx(0.75)


@pytest.mark.parametrize("busy", [None, 0.0, 0.5, 1.0])
def test_the_line_of_a_worker_fits_into_80_columns(busy: float | None):
    worker = Progress(999, 1_234_567, rows=9_999_999, note="restarting", step="a-step-with-a-long-name")
    assert len(_of(worker, busy)) <= 80
    assert len(_of(Progress(0, note="restarting"), busy)) <= 80


def eta(paces: list[float]) -> tuple[float, float]:
    """The range of a run that had these paces, each for two seconds, and has 1,000 rows left."""
    now, rows = 0.0, 0.0
    tally = Tally(lambda: now)
    tally.planned = 10**6
    tally(Ticked([], 0, 0))
    for pace in paces:
        now, rows = now + 2, rows + 2 * pace
        tally(Ticked([], 0, int(rows)))
    tally.planned = int(rows) + 1000
    return tally.eta_range


def test_the_time_to_go_is_a_range_as_wide_as_the_pace_varies():
    assert eta([50.0] * 8) == (20.0, 20.0)
    least, most = eta([40.0, 60.0] * 4)
    assert least < 20.0 < most
    wider = eta([20.0, 80.0] * 4)
    assert wider[0] < least
    assert wider[1] > most
    assert eta([0.0, 0.0, 0.0, 100.0, 0.0])[1] <= 4 * 1000 / 20  # bounded, however it varies
    assert eta([40.0, 60.0]) == (20.0, 20.0)  # too few to tell


def test_a_range_that_reads_alike_is_one_figure():
    assert span(14.2, 14.4) == "14 s"
    assert span(14.0, 65.0) == "14 s to 1 min 5 s"
