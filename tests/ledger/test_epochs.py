"""Who runs, and who may take over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from batchinfer.errors import LockedError
from batchinfer.ledger import epochs, host, records
from batchinfer.ledger.epochs import Epoch
from batchinfer.ledger.host import HERE, Host
from batchinfer.storage.paths import JobPaths


class Clock(Host):
    """Counts the seconds that are waited for, and does something at one of them."""

    def __init__(self, at: float = -1, action: Callable[[], object] = lambda: None) -> None:
        self.seconds = 0.0
        self._at, self._action = at, action

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        if self.seconds == self._at:
            self._action()


class NothingToWaitFor(Host):
    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing was to be waited for, and {seconds} s were")


never = NothingToWaitFor()


def elsewhere(store: Any, job: JobPaths, number: int = 1, **values: Any) -> None:
    """The epoch of a runner on another machine."""
    records.create(store, job.epoch(number), {**HERE.identity(), "host": "other", "boot": "other", **values})


def beat(store: Any, job: JobPaths, number: int, beats: int) -> None:
    store.put(job.heartbeat(number), records.to_bytes({"beat": beats}))


def test_the_first_runner_waits_for_nobody(store: Any, job: JobPaths) -> None:
    epoch = Epoch.begin(store, job, host=never)
    epoch.close("end")
    assert epoch.number == 1
    record = records.read(store, job.epoch(1))
    assert record["pid"] == os.getpid()
    assert {"host", "boot", "process_start", "versions", "nonce"} <= record.keys()
    assert records.read(store, job.closed(1))["end"] == "end"


def test_after_a_clean_end_the_next_one_waits_for_nobody(store: Any, job: JobPaths) -> None:
    Epoch.begin(store, job, host=never).close("end")
    epoch = Epoch.begin(store, job, host=never)
    epoch.close("end")
    assert epoch.number == 2


def test_a_process_of_this_boot_that_is_dead_is_taken_over_at_once(store: Any, job: JobPaths) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    records.create(store, job.epoch(1), {**HERE.identity(), "pid": gone.pid})
    epoch = Epoch.begin(store, job, host=never)
    epoch.close("end")
    assert epoch.number == 2


def test_a_process_that_is_dead_and_not_yet_reaped_is_taken_over_at_once(store: Any, job: JobPaths) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state = host.process_state(child.pid)
    assert state is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until we reap it
    records.create(store, job.epoch(1), {**HERE.identity(), "pid": child.pid, "process_start": state[1]})
    epoch = Epoch.begin(store, job, host=never)
    epoch.close("end")
    child.communicate()
    assert epoch.number == 2


def test_a_number_that_another_process_was_given_since_is_not_mistaken_for_the_runner(
    store: Any, job: JobPaths
) -> None:
    records.create(store, job.epoch(1), {**HERE.identity(), "process_start": "1"})
    epoch = Epoch.begin(store, job, host=never)
    epoch.close("end")
    assert epoch.number == 2


def test_a_process_of_another_container_is_not_looked_for_among_ours(store: Any, job: JobPaths) -> None:
    """Containers on one host share its boot, and with the host's network its name."""
    record = {**HERE.identity(), "pid": 2**22 + 1, "pid_namespace": "pid:[1]"}
    records.create(store, job.epoch(1), record)
    with pytest.raises(LockedError):
        Epoch.begin(store, job, host=Clock(12, lambda: beat(store, job, 1, 1)))


def test_a_runner_elsewhere_whose_heart_beats_locks_the_job(store: Any, job: JobPaths) -> None:
    elsewhere(store, job, pid=77)
    beat(store, job, 1, 5)
    clock = Clock(9, lambda: beat(store, job, 1, 6))
    with pytest.raises(LockedError, match="process 77 on other is running this job") as locked:
        Epoch.begin(store, job, host=clock)
    assert locked.value.exit_code == 75
    assert clock.seconds == 9
    assert job.epoch(2) not in store.paths


def test_the_first_heartbeat_of_a_young_runner_counts(store: Any, job: JobPaths) -> None:
    elsewhere(store, job)
    with pytest.raises(LockedError):
        Epoch.begin(store, job, host=Clock(10, lambda: beat(store, job, 1, 1)))


def test_a_runner_of_this_process_locks_the_job_too(store: Any, job: JobPaths) -> None:
    records.create(store, job.epoch(1), HERE.identity())
    with pytest.raises(LockedError):
        Epoch.begin(store, job, host=Clock(3, lambda: beat(store, job, 1, 1)))


def test_a_silent_heartbeat_is_taken_over_after_thirty_seconds_of_our_own(store: Any, job: JobPaths) -> None:
    elsewhere(store, job)
    beat(store, job, 1, 5)
    clock = Clock()
    epoch = Epoch.begin(store, job, host=clock)
    epoch.close("end")
    assert (epoch.number, clock.seconds) == (2, 30)


def test_a_runner_that_ends_while_it_is_watched_is_not_waited_for_any_longer(store: Any, job: JobPaths) -> None:
    elsewhere(store, job)
    clock = Clock(4, lambda: store.put(job.closed(1), records.to_bytes({"end": "end"})))
    Epoch.begin(store, job, host=clock).close("end")
    assert clock.seconds == 4


def test_of_two_that_take_over_the_loser_looks_again_and_is_locked_out(store: Any, job: JobPaths) -> None:
    elsewhere(store, job)

    def win() -> None:
        elsewhere(store, job, 2, pid=88)

    clock = Clock(30, win)

    class Watching(Host):
        def sleep(self, seconds: float) -> None:
            clock.sleep(seconds)
            beat(store, job, 2, int(clock.seconds))

    with pytest.raises(LockedError, match="process 88"):
        Epoch.begin(store, job, host=Watching())


def test_a_runner_learns_that_a_later_one_took_over(store: Any, job: JobPaths) -> None:
    epoch = Epoch.begin(store, job, host=never)
    assert not epoch.is_superseded()
    elsewhere(store, job, 2)
    assert epoch.is_superseded()
    epoch.close("end")


def test_the_heart_beats_until_the_end_and_survives_a_store_that_fails(
    store: Any, job: JobPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "HEARTBEAT_SECONDS", 0.005)
    beats: list[bytes] = []

    def before(verb: str, path: str) -> None:
        if verb == "put" and path == job.heartbeat(1):
            beats.append(path.encode())
            if len(beats) == 1:
                raise OSError("away for a moment")

    store.before = before
    epoch = Epoch.begin(store, job, host=never)
    while len(beats) < 4:
        time.sleep(0.005)
    epoch.close("end")
    count = len(beats)
    time.sleep(0.03)
    assert records.read(store, job.heartbeat(1))["beat"] >= 3
    assert len(beats) == count


@pytest.mark.parametrize(
    ("beats", "closed", "seconds"), [(None, None, 5.0), (9.0, None, 9.0), (9.0, 12.0, 12.0), ("damaged", None, 5.0)]
)
def test_the_next_runner_goes_on_from_the_device_seconds_of_the_last_sign(
    store: Any, job: JobPaths, beats: Any, closed: float | None, seconds: float
) -> None:
    elsewhere(store, job, job_device_seconds=5.0)
    if beats is not None:
        sign = b"{" if beats == "damaged" else records.to_bytes({"beat": 1, "job_device_seconds": beats})
        store.put(job.heartbeat(1), sign)
    if closed is not None:
        store.put(job.closed(1), records.to_bytes({"end": "end", "job_device_seconds": closed}))
    epoch = Epoch.begin(store, job, host=Clock())
    assert epoch.meter.spent(None).job_device_seconds == seconds
    assert records.read(store, job.epoch(2))["job_device_seconds"] == seconds
    epoch.close("end")
    assert records.read(store, job.closed(2))["job_device_seconds"] == seconds
