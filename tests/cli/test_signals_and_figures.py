from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from batchinfer.cli.render import table
from batchinfer.cli.signals import Signals
from batchinfer.cli.summary import summary
from batchinfer.ledger.parts import Counts
from batchinfer.measure.settings import StepSettings
from batchinfer.pipeline.batching import Budget
from batchinfer.report.figures import duration, percent
from batchinfer.report.tally import Tally
from batchinfer.report.words import precision
from batchinfer.run.events import Finished, RunResult, Settled, State, Ticked
from batchinfer.storage.paths import JobPaths
from batchinfer.worker.context import Progress, Seconds, Served, StepUsage, Usage
from tests.settings import of_one


def settled():
    import pyarrow as pa

    return Settled(of_one(StepSettings("fp32", Budget(10, None), 1, pa.schema([]))), 1)


def in_a_process(program: str) -> str:
    """What a program that gets a signal prints: a signal that went another way would end the process of all tests."""
    head = "import signal\nfrom batchinfer.cli.signals import Signals\nfrom batchinfer.errors import StoppedError\n"
    done = subprocess.run([sys.executable, "-c", head + program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.strip()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_before_there_is_anything_to_drain_ends_the_run_at_once(number, code):
    program = f"""
try:
    with Signals():
        signal.raise_signal({int(number)})
        print("went on")
except StoppedError as error:
    print(error.exit_code)
"""
    assert in_a_process(program) == str(code)


def test_a_signal_while_workers_run_asks_them_to_stop():
    program = """
from tests.cli.test_signals_and_figures import settled
with Signals() as signals:
    signals.watch(settled())
    signal.raise_signal(signal.SIGINT)
    print(bool(signals.stop), signals.stop.cancelled)
"""
    assert in_a_process(program) == "True True"


def test_what_really_runs_is_told():
    import pyarrow as pa

    measured = {"provider": "CPUExecutionProvider", "skipped": {"bf16": "too dear", "int8": "too dear", "fp8": "no"}}
    one = StepSettings("fp32", Budget(10), 2, pa.schema([]))
    assert precision(one) == "precision fp32"
    assert precision(StepSettings("fp32", Budget(10), 1, pa.schema([]), 2, measured)) == (
        "precision fp32; on CPUExecutionProvider; bf16, int8 are skipped: too dear; fp8 is skipped: no; "
        "2 calls at a time, of 1 CPU thread each"
    )


def test_the_handlers_of_before_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_pace_is_that_of_the_last_seconds_and_rows_never_go_back():
    now = 0.0
    tally = Tally(lambda: now)
    tally.planned, tally.rows = 1000, 100
    tally(settled())
    for at, decided, in_hand in ((10.0, 100, 100), (20.0, 300, 0), (30.0, 300, 100), (40.0, 300, 50)):
        now = at
        tally(Ticked([Progress(0, rows=1, in_hand=in_hand)], decided=1, decided_rows=decided))
    assert tally.rows == 400
    assert tally.share == "40 %"
    assert tally.pace == pytest.approx(100 / 20)
    assert tally.figures == ["5.0 rows/s", "ETA 2 min 0 s"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.44, "0.4 s"), (59.6, "1 min 0 s"), (214, "3 min 34 s"), (7500, "2 h 5 min"), (277200, "3 d 5 h")],
)
def test_durations_are_read_at_a_glance(seconds, words):
    assert duration(seconds) == words


def test_a_hundred_percent_is_said_only_when_all_is_done():
    assert percent(99_999, 100_000) == "99 %"
    assert percent(0, 0) == "100 %"


def test_a_table_wraps_between_words_and_never_inside_a_path(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    path = "/a/very/long/path/that/does/not/fit/into/the/terminal/at/all/data"
    text = table([("output", path), ("note", "word " * 30)])
    assert path in text
    assert all(len(line) <= 60 for line in text.split("\n") if path not in line)


def test_the_summary_says_of_each_pool_who_waited_for_whom():
    tally = Tally()
    usage = Usage(Seconds(wait=1.0), {"small": StepUsage(), "big": StepUsage()})
    served = {
        "big": Served(batches=9, busy=2.0, idle=8.0),
        "small": Served(batches=9, busy=9.9, idle=0.1),
        "last": Served(),
    }
    rows = Counts(10, 10)
    tally(
        Finished(
            RunResult(State.SUCCEEDED, 0, rows, JobPaths("0123abcd"), "out", usage=usage, served=served, workers=2)
        )
    )
    told = summary("cascade", tally, 0, "nothing to do")
    assert told.startswith("cascade: ")
    assert "big: the pool 8.0 s for batches (80 % of its time)" in told
    assert "small: the pool 0.1 s for batches (1 % of its time)" in told
    assert "last:" not in told
