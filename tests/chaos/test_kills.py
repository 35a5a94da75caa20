"""The program killed at random: its driver, one worker, everything; stopped and woken; started several times at once."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from typing import Any

import pytest

from batchinfer.run.generation import TICK_SECONDS
from batchinfer.worker.worker import AHEAD
from tests.chaos.place import (
    BATCH,
    ISOLATION,
    ON_RAY,
    SHARD,
    STORING,
    Place,
    Reference,
    actors,
    ended,
    kill_all,
    one_kill,
    pace,
    wait_for,
)

ORPHANS = min(pace() * 2.5, AHEAD * SHARD)
"""Ray's processes outlive a killed driver by about two seconds, in which each worker goes on with the shards that it was given."""
AWAKE = pace() * (STORING + TICK_SECONDS) + BATCH + ISOLATION
"""Rows of a runner that wakes up: its heartbeat is due at once and finds the other's record, the runner looks for that at its next
turn, and a batch is in hand."""


def finish(place: Place, seconds: float = 120) -> None:
    code, said = place.finish(seconds=seconds)
    assert code == 0, said


def storm(place: Place, dice: random.Random, shortest: float, longest: float, kill: Any) -> int:
    """Start the program and kill it, until it ends by itself; how many of the kills met the model at work."""
    costly = 0
    for kills in range(100):
        seen = place.seen()
        process = place.launch()
        patience = dice.uniform(shortest, longest) * 1.1**kills  # a loaded machine may need longer for its start alone
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            kill(process)
            process.communicate()
            costly += place.seen() > seen
        else:
            code, said = ended(process)
            assert code == 0, said
            assert kills, "it was done before it could be killed"
            return costly
    raise AssertionError("it never came to its end")


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()


def test_a_storm_of_kills_ends_with_the_same_files(place: Place, note: Any, dice: random.Random) -> None:
    kills = storm(place, dice, 1.2, 2.2, killed)
    note("storm of kills of the driver", place, kills * one_kill())


def test_two_runners_at_once_end_with_one_result(place: Place, note: Any) -> None:
    together(place, 2)
    note("two to four runners at once", place, 0)


def together(place: Place, count: int) -> None:
    processes = [place.launch() for _ in range(count)]
    ends = [ended(process) for process in processes]
    assert sorted(code for code, _ in ends) == [0, *[75] * (count - 1)], ends
    assert all("is running this job" in said for code, said in ends if code == 75), ends


def zombie(place: Place, step: tuple[str, str, str, int], **times: float) -> None:
    """The program stops at a step, another one takes over and finishes, then the first wakes up.

    `times` as in site/sitecustomize.py.
    """
    verb, path, when, count = step
    process = place.launch(chaos={"points": [place.point(verb, path, when, count, "SIGSTOP")], **times})
    wait_for(lambda: place.struck, process)
    code, said = place.finish(chaos=times)
    assert code == 0, said
    process.send_signal(signal.SIGCONT)
    code, said = ended(process, 60)
    assert code in (0, 75), said


def test_a_runner_that_sleeps_before_its_decision_wakes_too_late(place: Place, note: Any) -> None:
    zombie(place, ("create", "data/part-", "before", 1), patience=3, heartbeat=1)  # with most of the rows left
    note("SIGSTOP, takeover, SIGCONT", place, one_kill() + AWAKE)


@pytest.mark.chaos
@pytest.mark.parametrize("where", ["place", "lake"])
@pytest.mark.parametrize(
    "step",
    [
        ("create", "settings.json", "before", 1),
        ("put", "/wip/", "before", 2),
        ("put", "_dead_letter/", "before", 1),
        ("create", "data/part-", "before", 1),
        ("delete", "/wip/", "before", 1),
        ("create", "/manifests/", "before", 1),
        ("put", "data/_SUCCESS", "before", 1),
    ],
    ids=lambda step: " ".join(map(str, step)),
)
def test_a_runner_that_sleeps_at_any_step(
    request: pytest.FixtureRequest, note: Any, where: str, step: Any, repetition: int
) -> None:
    place = request.getfixturevalue(where)
    zombie(place, step)
    note("SIGSTOP, takeover, SIGCONT", place, one_kill() + AWAKE)


@pytest.mark.chaos
@pytest.mark.parametrize("where", ["place", "lake"])
def test_a_driver_killed_at_random(
    request: pytest.FixtureRequest, note: Any, where: str, repetition: int, dice: random.Random
) -> None:
    place = request.getfixturevalue(where)
    whole: Reference = request.getfixturevalue("reference" if where == "place" else "lake_reference")
    process = place.launch()
    time.sleep(dice.uniform(0.3, whole.seconds))
    process.kill()
    process.communicate()
    finish(place)
    note(f"kill -9 of the driver, {'local disk' if where == 'place' else 'S3'}", place, one_kill())


@pytest.mark.chaos
@pytest.mark.parametrize("where", ["place", "lake"])
def test_a_storm_of_kills(
    request: pytest.FixtureRequest, note: Any, where: str, repetition: int, dice: random.Random
) -> None:
    place = request.getfixturevalue(where)
    kills = storm(place, dice, 1.2, 3, killed)
    note("storm of kills of the driver", place, kills * one_kill())


@pytest.mark.chaos
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("where", ["place", "lake"])
def test_several_runners_at_once(
    request: pytest.FixtureRequest, note: Any, where: str, count: int, repetition: int
) -> None:
    place = request.getfixturevalue(where)
    together(place, count)
    note("two to four runners at once", place, 0)


@pytest.mark.chaos
def test_several_runners_at_once_under_kills(
    place: Place, reference: Reference, note: Any, repetition: int, dice: random.Random
) -> None:
    for _ in range(3):
        processes = [place.launch() for _ in range(3)]
        time.sleep(dice.uniform(0.5, 1.5) * reference.seconds)
        for process in processes:
            process.kill()
            process.communicate()
    finish(place)
    note("three runners at once, all killed, three times", place, 3 * one_kill())


@pytest.mark.chaos
@pytest.mark.ray
def test_a_ray_worker_killed_at_random(place: Place, note: Any, repetition: int, dice: random.Random) -> None:
    place.more["resources"] = ON_RAY
    process = place.launch()
    wait_for(place.chunks, process)
    time.sleep(dice.uniform(0, SHARD / pace()))
    dice.choice(actors(process)).kill()
    code, said = ended(process)
    assert code == 0, said
    note("kill -9 of a Ray worker", place, one_kill())


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.parametrize("kill", [killed, kill_all], ids=["driver", "everything"])
def test_a_run_on_ray_killed_at_random(
    place: Place, reference: Reference, note: Any, kill: Any, repetition: int, dice: random.Random
) -> None:
    place.more["resources"] = ON_RAY
    process = place.launch()
    wait_for(place.chunks, process)
    time.sleep(dice.uniform(0, SHARD / pace()))
    kill(process)
    left = max(0, reference.seen - place.seen())
    process.communicate()
    finish(place)
    what = "the driver alone, run again at once" if kill is killed else "driver, workers and Ray"
    note(f"kill -9 on Ray: {what}", place, 2 * one_kill() + (min(2 * ORPHANS, left) if kill is killed else 0))


@pytest.mark.chaos
@pytest.mark.ray
def test_a_storm_of_kills_on_ray(place: Place, note: Any, repetition: int, dice: random.Random) -> None:
    place.more["resources"] = ON_RAY
    kills = storm(place, dice, 4, 8, kill_all)
    note("storm of kills of everything, on Ray", place, kills * 2 * one_kill())


@pytest.mark.chaos
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_drains_within_20_seconds(
    place: Place, note: Any, number: signal.Signals, code: int, repetition: int, dice: random.Random
) -> None:
    process = place.launch()
    wait_for(place.chunks, process)
    time.sleep(dice.uniform(0, 0.5))
    process.send_signal(number)
    asked = time.monotonic()
    assert ended(process, 30)[0] == code
    assert time.monotonic() - asked < 20
    finish(place)
    note(
        f"{number.name}: drained, then run again", place, BATCH + ISOLATION
    )  # a batch that is being searched for its bad row


@pytest.mark.chaos
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_a_second_signal_leaves_at_once(
    place: Place, note: Any, number: signal.Signals, code: int, repetition: int
) -> None:
    place.more["model"] = {"options": {"delay": 6, "log": str(place.log)}}
    process = place.launch()
    wait_for(place.log.exists, process)
    process.send_signal(number)
    time.sleep(0.5)
    process.send_signal(number)
    asked = time.monotonic()
    assert ended(process, 30)[0] == code
    assert time.monotonic() - asked < 2
