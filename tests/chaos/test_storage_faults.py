"""A store that fails on the way: absorbed, or the run ends with 75 and is finished by running it again."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.chaos.place import Place, ended, one_kill, store_away, wait_for
from tests.chaos.proxy import FAULTS, Proxy, Rule

PASSING = [fault for fault in FAULTS if fault not in ("403", "stall")]
CREATED = ["probes/", "jobs/", "epochs/", "plans/", "settings.json", "data/part-", "manifests/"]
MINUTES = 300


def test_a_store_that_fails_in_every_way_is_no_reason_to_stop(lake: Place, proxy: Proxy, note: Any) -> None:
    proxy.rules += [Rule(fault, chance=0.03) for fault in PASSING]
    proxy.rules += [Rule(fault, "PUT", "/data/part-", times=1) for fault in ("409", "412", "lost", "503", "truncate")]
    proxy.rules += [Rule(fault, "GET", "/source/", times=1) for fault in ("truncate", "reset", "500")]
    code, said = lake.finish(seconds=MINUTES)
    assert code == 0, said
    assert {"409", "412", "lost", "503", "truncate", "reset", "500"} <= set(proxy.struck)
    proxy.rules.clear()
    note("all passing faults of the store at once", lake, 0)


def test_an_answer_that_is_lost_at_every_create_is_no_conflict(lake: Place, proxy: Proxy, note: Any) -> None:
    proxy.rules += [Rule("lost", "PUT", path, times=1) for path in CREATED]
    code, said = lake.finish(seconds=MINUTES)
    assert code == 0, said
    assert proxy.struck["lost"] == len(CREATED)
    note("lost acknowledgement at every create", lake, 0)


@pytest.mark.chaos
def test_a_store_that_goes_away_ends_the_run_with_75_and_the_next_one_completes(
    lake: Place, proxy: Proxy, moto: str, note: Any, repetition: int
) -> None:
    process = lake.launch(chaos={"retry": 3})
    here = {**lake.storage["s3://lake/"], "endpoint_url": moto}
    lake.storage = {"s3://lake/": here}
    wait_for(lake.chunks, process)
    proxy.leave()
    code, said = ended(process)
    assert code == 75, said
    assert "run the same command again" in said
    assert "Traceback" not in said
    code, said = lake.finish()
    assert code == 0, said
    note("store away for good in mid-run, then back", lake, store_away())


def test_a_right_that_is_lost_ends_the_run_within_seconds(lake: Place, proxy: Proxy) -> None:
    proxy.rules.append(Rule("403", "PUT", "/data/part-"))
    began = time.monotonic()
    code, said = lake.finish(seconds=60)
    assert code == 2, said
    assert "check credentials and their rights" in said
    assert time.monotonic() - began < 30


@pytest.mark.chaos
@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes(
    lake: Place, proxy: Proxy, note: Any, fault: str, repetition: int, dice: random.Random
) -> None:
    proxy.rules += [Rule(fault, chance=dice.uniform(0.05, 0.25)), Rule(fault, "PUT", "/data/part-", times=2)]
    code, said = lake.finish(seconds=2 * MINUTES)
    assert code == 0, said
    assert proxy.struck[fault]
    proxy.rules.clear()
    note(f"store: {fault}", lake, 0)


@pytest.mark.chaos
def test_a_store_that_stalls(lake: Place, proxy: Proxy, note: Any, repetition: int, dice: random.Random) -> None:
    slow = dice.sample(["/epochs/", "/data/part-", "/wip/", "/manifests/", "/source/", "/settings.json"], 3)
    proxy.rules += [Rule("stall", path=path, times=1) for path in slow]
    code, said = lake.finish(seconds=2 * MINUTES)
    assert code == 0, said
    assert proxy.struck["stall"] == len(slow)
    note("store: stall of 20 s", lake, 0)


@pytest.mark.chaos
@pytest.mark.parametrize("path", CREATED)
def test_a_lost_answer_then_a_kill(lake: Place, proxy: Proxy, note: Any, path: str, repetition: int) -> None:
    """The create was carried out, its answer lost, and the process dies before it can look."""
    rule = Rule("lost", "PUT", path)
    proxy.rules.append(rule)
    process = lake.launch()
    wait_for(lambda: rule.hits, process)
    process.kill()
    process.wait()
    proxy.rules.clear()
    code, said = lake.finish()
    assert code == 0, said
    note("lost acknowledgement, then a kill", lake, one_kill())


@pytest.mark.chaos
def test_a_store_that_is_away_for_good_as_long_as_it_takes(
    lake: Place, proxy: Proxy, moto: str, note: Any, repetition: int
) -> None:
    """With the program's own patience of five minutes: once, not for each batch, each request and the record of the run's end."""
    process = lake.launch()
    lake.storage = {"s3://lake/": {"endpoint_url": moto}}
    wait_for(lake.chunks, process)
    proxy.leave()
    code, said = ended(process, MINUTES + 90)
    assert code == 75, said
    code, said = lake.finish()
    assert code == 0, said
    note("store away for more than five minutes", lake, store_away())


def test_a_store_that_ignores_conditions_is_refused_unless_one_answers_for_it(
    lake: Place, proxy: Proxy, note: Any
) -> None:
    proxy.rules.append(Rule("blind"))
    code, said = lake.finish()
    assert code == 2, said
    assert "ignores conditional creates" in said
    assert lake.names() == []
    code, said = lake.finish("--single-writer")
    assert code == 0, said
    assert "if one does, rows may be lost or predicted twice" in said
    assert lake.exclusive() == "assumed"
    note("store without conditional creates, --single-writer", lake, 0)


@pytest.mark.chaos
def test_a_kill_on_a_store_that_ignores_conditions(
    lake: Place, proxy: Proxy, note: Any, repetition: int, dice: random.Random
) -> None:
    proxy.rules.append(Rule("blind"))
    process = lake.launch("--single-writer")
    wait_for(lake.chunks, process)
    time.sleep(dice.uniform(0, 1))
    process.kill()
    process.communicate()
    code, said = lake.finish("--single-writer")
    assert code == 0, said
    assert lake.exclusive() == "assumed"
    note("store without conditional creates, --single-writer, killed", lake, one_kill())


def test_single_writer_changes_nothing_where_conditions_hold(lake: Place) -> None:
    code, said = lake.finish("--single-writer")
    assert code == 0, said
    assert "single-writer" not in said
    assert lake.exclusive() == "proven"
