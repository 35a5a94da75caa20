"""Runners that others have taken over from, and runs that an exception ends: what they leave on the output stays true."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchinfer import Job
from batchinfer.errors import LockedError
from batchinfer.ledger import generations, jobs, manifests, records
from batchinfer.run.events import Event, State, Ticked
from batchinfer.run.judge import judge
from batchinfer.storage import paths
from batchinfer.storage.store import Store, open_store
from tests.run.workplace import Workplace


def test_after_an_exception_the_results_count_what_is_decided(workplace: Workplace) -> None:
    workplace.write(6000, bad={5})

    def break_off(event: Event) -> None:
        if isinstance(event, Ticked) and event.decided:
            raise RuntimeError("the listener is broken")

    job = Job(**workplace.fields())
    for decided in (1, 2):  # the second finds the shards of the first
        with pytest.raises(RuntimeError):
            job.run(listener=break_off)
        run = workplace.opened()
        rows = run.record["rows"]
        assert (run.state, run.exit_code, rows["planned"]) == (State.FAILED, 1, 6000)
        assert rows["succeeded"] >= 2000 * decided - 1
        assert (rows["dead"], rows["not_attempted"]) == (1, 6000 - rows["succeeded"] - 1)
    assert job.run().counts.succeeded == 5999


def test_a_superseded_runner_leaves_its_successors_results_alone(workplace: Workplace) -> None:
    workplace.write(6000)
    store = open_store(str(workplace.folder / "output"))
    theirs = {"state": "RUNNING", "exit_code": None, "rows": {"planned": 6000}}

    def take_over(event: Event) -> None:
        job = jobs.current(store)
        if isinstance(event, Ticked) and job is not None and records.find(store, job.paths.epoch(2)) is None:
            records.create(store, job.paths.epoch(2), {"host": "elsewhere"})
            store.put(job.paths.run_results, records.to_bytes(theirs))

    Job(**workplace.fields()).run(listener=take_over)
    assert workplace.opened().record == theirs


class Racing:
    """A store on which another runner does something right before the `_SUCCESS` mark is put."""

    def __init__(self, store: Store, other: Any) -> None:
        self._store, self._other = store, other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, path: str, data: bytes) -> None:
        if path == paths.SUCCESS:
            self._other()
        self._store.put(path, data)


def test_success_is_taken_back_where_a_retry_was_begun_at_that_moment(workplace: Workplace) -> None:
    workplace.write(3000, bad={7})
    workplace.run()
    store = open_store(str(workplace.folder / "output"))
    job = jobs.current(store)
    assert job is not None
    manifest = manifests.latest(store, job.paths)
    assert manifest is not None
    spec = Job(**workplace.fields(errors={"threshold": 1})).spec
    first = generations.read(store, job.paths, 1).to_json()

    def begin_retry() -> None:
        store.delete(paths.SUCCESS)
        records.create(store, job.paths.plan(2), {**first, "generation": 2, "kind": "retry"})

    assert judge(store, spec, job, manifest).exit_code == 0
    with pytest.raises(LockedError, match="another retry"):
        judge(Racing(store, begin_retry), spec, job, manifest)
    assert not (workplace.folder / "output/data/_SUCCESS").exists()


def test_a_runner_of_an_ended_generation_neither_ends_another_nor_removes_its_dead_letters(
    workplace: Workplace,
) -> None:
    workplace.write(3000, bad={7, 2500})
    workplace.run()
    store = open_store(str(workplace.folder / "output"))
    job = jobs.current(store)
    assert job is not None
    (path,) = (workplace.folder / "output/_batchinfer").glob("*/manifests/0001.json")
    old = manifests.Manifest.from_json(json.loads(path.read_text()))
    workplace.retry()
    before = workplace.files()
    with pytest.raises(LockedError, match="another retry"):
        judge(store, Job(**workplace.fields()).spec, job, old)
    assert workplace.files() == before
    assert len(workplace.dead()) == 2
