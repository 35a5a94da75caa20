"""Runs that are killed, stopped, or started twice: the same command again gives the files of an uninterrupted run."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.run.workplace import Workplace, chunks, wait_for

ROWS, BATCH, INTERVAL, DELAY = 6000, 32, 0.5, 0.02
PACE = BATCH / DELAY
"""Rows per second at most, of one worker."""


def sections(workplace: Workplace, **more: Any) -> dict[str, Any]:
    model = {"options": {"delay": DELAY, "log": str(workplace.log)}}
    return {"model": model, "checkpoint": {"interval": INTERVAL}, "errors": {"threshold": -1}, **more}


@pytest.fixture
def uninterrupted(workplace: Workplace) -> tuple[list[str], int]:
    """Digests of a run that nothing happened to, and the rows that its model saw.

    Of the same input: a part's footer has the digest of its dead letters, which name the file.
    """
    workplace.write(ROWS, bad={5, 3100})
    assert workplace.run(**sections(workplace, output={"path": str(workplace.folder / "reference")})).exit_code == 0
    seen = workplace.seen()
    workplace.log.unlink()
    return workplace.digests("reference"), seen


def parts(workplace: Workplace) -> list[Path]:
    return list((workplace.folder / "output/data").glob("*.parquet"))


def test_a_killed_run_continues_and_redoes_at_most_one_interval(
    workplace: Workplace, uninterrupted: tuple[list[str], int]
) -> None:
    digests, seen = uninterrupted
    process = workplace.start(**sections(workplace))
    wait_for(lambda: parts(workplace) and chunks(workplace), process)
    time.sleep(INTERVAL * 0.7)
    process.kill()
    process.wait()
    assert 0 < len(parts(workplace)) < len(digests)
    run = workplace.run(**sections(workplace))
    assert run.exit_code == 0
    assert workplace.digests() == digests
    assert workplace.seen() - seen <= PACE * INTERVAL + 2 * BATCH
    run.clean()  # where the kill fell between a part and the removal of its chunks
    assert not chunks(workplace)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_files(
    workplace: Workplace, uninterrupted: tuple[list[str], int]
) -> None:
    digests, _ = uninterrupted
    for round_ in range(4):
        process = workplace.start(**sections(workplace))
        before = set(chunks(workplace))
        wait_for(lambda before=before: set(chunks(workplace)) - before, process)
        time.sleep(0.05 * round_)
        process.kill()
        process.wait()
    assert workplace.run(**sections(workplace)).exit_code == 0
    assert workplace.digests() == digests


def test_a_second_runner_is_refused_while_the_first_lives(workplace: Workplace) -> None:
    workplace.write(ROWS)
    slower = sections(workplace, model={"options": {"delay": 3 * DELAY}})  # the second takes seconds to start
    first = workplace.start(**slower)
    wait_for(lambda: chunks(workplace), first)
    second = workplace.start(**slower)
    _, error = second.communicate(timeout=60)
    assert second.returncode == 75
    assert f"process {first.pid} on" in error
    assert first.wait(timeout=60) == 0
    assert len(workplace.digests()) == 3


def test_a_changed_class_after_a_kill_is_refused(workplace: Workplace) -> None:
    workplace.write(ROWS)
    process = workplace.start(**sections(workplace))
    wait_for(lambda: chunks(workplace), process)
    process.kill()
    process.wait()
    source = workplace.folder / "code/doubling.py"
    source.write_text(source.read_text().replace("2.0 *", "3.0 *"))
    again = workplace.start(**sections(workplace))
    _, error = again.communicate(timeout=60)
    assert again.returncode == 2
    assert "doubling.py" in error


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_two_ray_workers_that_is_killed_gives_the_same_files(
    workplace: Workplace, uninterrupted: tuple[list[str], int]
) -> None:
    digests, seen = uninterrupted
    on_ray = {"resources": {"executor": "ray", "workers": 2, "cpus": 1}}
    process = workplace.start(**sections(workplace, **on_ray))
    wait_for(lambda: chunks(workplace), process)
    time.sleep(INTERVAL)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(5)  # the orphaned actors end by themselves a few seconds later; until then they may still finish shards
    again = workplace.start(**sections(workplace, **on_ray))
    assert again.wait(timeout=120) == 0, again.communicate()[1]
    assert workplace.digests() == digests
    assert workplace.seen() - seen <= 2 * (PACE * INTERVAL + 2 * BATCH)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_begun_on_ray_is_finished_inline(workplace: Workplace, uninterrupted: tuple[list[str], int]) -> None:
    digests, _ = uninterrupted
    process = workplace.start(**sections(workplace, resources={"executor": "ray", "workers": 2, "cpus": 1}))
    wait_for(lambda: chunks(workplace), process)
    process.kill()
    process.wait()
    assert workplace.run(**sections(workplace)).exit_code == 0
    assert workplace.digests() == digests


@pytest.mark.usefixtures("impatient")
def test_a_runner_that_was_stopped_and_replaced_leaves_when_it_wakes(
    workplace: Workplace, uninterrupted: tuple[list[str], int]
) -> None:
    digests, _ = uninterrupted
    zombie = workplace.start(**sections(workplace))
    wait_for(lambda: chunks(workplace), zombie)
    zombie.send_signal(signal.SIGSTOP)
    assert workplace.run(**sections(workplace)).exit_code == 0  # once the heartbeat was silent
    zombie.send_signal(signal.SIGCONT)
    assert zombie.wait(timeout=60) in (0, 75)
    assert workplace.digests() == digests
    assert workplace.opened().counts.succeeded == ROWS - 2


def test_ctrl_c_in_a_program_drains_and_the_same_program_resumes(workplace: Workplace) -> None:
    workplace.write(ROWS)
    process = workplace.start(**sections(workplace))
    wait_for(lambda: chunks(workplace), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert (workplace.opened().state, workplace.opened().exit_code) == ("CANCELLED", 130)
    assert workplace.run(**sections(workplace)).exit_code == 0
    assert workplace.seen() <= ROWS + 3 * BATCH  # what was finished is not computed again
