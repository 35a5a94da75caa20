"""Retries that are killed, started twice, or ended by another one."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from batchinfer.errors import FingerprintError
from batchinfer.ledger import generations, jobs, parts
from batchinfer.ledger.parts import Counts
from batchinfer.storage.store import open_store
from tests.run.workplace import Workplace, chunks, wait_for

ROWS = 4000
BAD = set(range(1, ROWS, 2))
BATCH, DELAY, INTERVAL = 32, 0.03, 0.3


def finished(workplace: Workplace, output: str = "output") -> None:
    """A job half of whose rows are dead."""
    workplace.write(ROWS, bad=BAD)
    path = str(workplace.folder / output)
    assert workplace.run(output={"path": path}).exit_code == 3


def slow(workplace: Workplace, **more: Any) -> dict[str, Any]:
    """Sections of a retry that takes two seconds, in two shards."""
    model = {"options": {"delay": DELAY, "log": str(workplace.log)}}
    batching = {"shard": 1000, "window": 500}
    return {"model": model, "batching": batching, "checkpoint": {"interval": INTERVAL}, **more}


def retry_parts(workplace: Workplace, output: str = "output") -> list[str]:
    return [p for p in workplace.names(output) if p.startswith("data/part") and int(p[10:17]) >= 2]


def killed(workplace: Workplace) -> None:
    """A retry that is killed after the first of its two shards."""
    process = workplace.start("retry", **slow(workplace))
    wait_for(lambda: retry_parts(workplace) and chunks(workplace), process)
    process.kill()
    process.wait()
    assert len(retry_parts(workplace)) == 1


@pytest.mark.parametrize("verb", ["retry", "run"])
@pytest.mark.slow
def test_a_killed_retry_is_resumed_by_the_same_command_and_by_a_run_of_the_same_job(
    workplace: Workplace, verb: str
) -> None:
    source = workplace.folder / "code/doubling.py"
    original = source.read_text()
    for output in ("reference", "output"):
        finished(workplace, output)
        workplace.mend()
        if output == "reference":
            assert workplace.retry(**slow(workplace, output={"path": str(workplace.folder / output)})).exit_code == 0
            seen = workplace.seen()
            workplace.log.unlink()
            source.write_text(original)
    killed(workplace)
    counts = workplace.opened().counts
    assert (counts.planned, counts.succeeded, counts.dead) == (ROWS, ROWS // 2 + 1000, 1000)
    assert not workplace.opened().generations[1].ended
    run = workplace.retry(**slow(workplace)) if verb == "retry" else workplace.run(**slow(workplace))
    assert (run.exit_code, run.counts.succeeded, run.counts.dead) == (0, ROWS, 0)
    assert workplace.digests() == workplace.digests("reference")
    assert workplace.seen() - seen <= BATCH / DELAY * INTERVAL + 3 * BATCH
    assert run.results().collect()["id"].to_list() == list(range(ROWS))
    run.clean()  # where the kill fell between a part and the removal of its chunks
    assert not chunks(workplace)


def test_while_a_retry_is_open_another_job_is_refused_and_no_success_stands(workplace: Workplace) -> None:
    finished(workplace)
    assert workplace.run(errors={"threshold": -1}).exit_code == 0
    source = workplace.folder / "code/doubling.py"
    original = source.read_text()
    workplace.mend()
    killed(workplace)
    assert not (workplace.folder / "output/data/_SUCCESS").exists()
    source.write_text(original)
    with pytest.raises(FingerprintError, match=r"retry of this job was interrupted(.|\n)*doubling\.py(.|\n)*retry"):
        workplace.run(errors={"threshold": -1})
    assert not (workplace.folder / "output/data/_SUCCESS").exists()


def test_another_retry_ends_an_interrupted_one_and_no_late_runner_of_it_can_decide(workplace: Workplace) -> None:
    finished(workplace)
    workplace.mend()
    killed(workplace)
    workplace.edit("-1.0", "-2.0")
    events: list[Any] = []
    run = workplace.retry(events=events, **slow(workplace))
    assert (run.exit_code, run.counts) == (0, Counts(ROWS, ROWS))
    assert [(g.kind, g.rows, g.ended) for g in run.generations] == [
        ("run", ROWS, True),
        ("retry", ROWS // 2, True),
        ("retry", 1000, True),
    ]
    answers = run.results().collect()["y"].to_list()
    assert answers[1:2000:2] == [-1.0] * 1000
    assert answers[2001::2] == [-2.0] * 1000
    store = open_store(str(workplace.folder / "output"))
    job = jobs.current(store)
    assert job is not None
    given_up = generations.read(store, job.paths, 2).shards[1]
    assert parts.read(store, job.paths, given_up.number).counts == Counts(1000, not_attempted=1000)
    assert not store.create(job.paths.part(given_up.number), b"a late runner's")


def test_a_retry_for_other_rows_ends_an_interrupted_one_too(workplace: Workplace) -> None:
    finished(workplace)
    workplace.mend()
    killed(workplace)
    run = workplace.retry(only=["NoSuchError"], **slow(workplace))
    assert (run.exit_code, run.counts.succeeded, run.counts.dead) == (3, ROWS // 2 + 1000, 1000)
    assert [g.ended for g in run.generations] == [True, True]
    assert len(run.errors()) == 1000
    assert len(run.errors(resolved=True)) == 2000
    assert workplace.retry(**slow(workplace)).counts == Counts(ROWS, ROWS)


@pytest.mark.slow
def test_of_two_retries_at_once_the_second_is_refused(workplace: Workplace) -> None:
    finished(workplace)
    workplace.mend()
    slower = {"options": {"delay": 8 * DELAY, "log": str(workplace.log)}}  # the second takes seconds to start
    first = workplace.start("retry", **slow(workplace, model=slower))
    wait_for(lambda: chunks(workplace), first)
    second = workplace.start("retry", **slow(workplace))
    _, error = second.communicate(timeout=60)
    assert second.returncode == 75
    assert f"process {first.pid} on" in error
    assert first.wait(timeout=60) == 0
    assert workplace.opened().counts == Counts(ROWS, ROWS)


@pytest.mark.slow
def test_a_retry_that_is_killed_again_and_again_ends_with_every_row_once(workplace: Workplace) -> None:
    import time

    finished(workplace)
    workplace.mend()
    for round_ in range(4):
        process = workplace.start("retry", **slow(workplace))
        before = set(workplace.names())
        wait_for(lambda before=before: set(workplace.names()) - before, process)
        time.sleep(0.15 * round_)
        process.kill()
        process.wait()
    run = workplace.retry(**slow(workplace))
    assert (run.exit_code, run.counts) == (0, Counts(ROWS, ROWS))
    frame = pl.read_parquet(workplace.folder / "output/data/*.parquet")
    assert sorted(frame["id"].to_list()) == list(range(ROWS))


@pytest.mark.ray
@pytest.mark.slow
def test_a_retry_on_two_ray_workers(workplace: Workplace) -> None:
    finished(workplace)
    workplace.mend()
    on_ray = {"executor": "ray", "workers": 2, "cpus": 1}
    process = workplace.start("retry", **slow(workplace, resources=on_ray))
    assert process.wait(timeout=120) == 0, process.communicate()[1]
    run = workplace.opened()
    assert (run.exit_code, run.counts) == (0, Counts(ROWS, ROWS))
    assert run.results().collect()["y"].to_list() == [-1.0 if n in BAD else 2.0 * n for n in range(ROWS)]


@pytest.mark.usefixtures("impatient")
@pytest.mark.slow
def test_a_retry_that_was_stopped_and_replaced_changes_nothing_when_it_wakes(workplace: Workplace) -> None:
    import signal

    finished(workplace)
    workplace.mend()
    zombie = workplace.start("retry", **slow(workplace))
    wait_for(lambda: chunks(workplace), zombie)
    zombie.send_signal(signal.SIGSTOP)
    workplace.edit("-1.0", "-2.0")
    assert workplace.retry(**slow(workplace)).exit_code == 0  # once the heartbeat was silent
    before = workplace.files()
    zombie.send_signal(signal.SIGCONT)
    assert zombie.wait(timeout=60) == 75, zombie.communicate()[1]
    after = workplace.files()
    assert {p: d for p, d in after.items() if not p.endswith(".arrow")} == before
    assert workplace.opened().counts == Counts(ROWS, ROWS)
