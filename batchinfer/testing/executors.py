"""One suite for every executor: whatever moves the shards, the same outcomes come back.

A subclass gives `open(context)`. The suite makes its own small job and checks what a runner relies on.
"""

from __future__ import annotations

import contextlib
import time
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.errors import ModelError, RefusedError
from batchinfer.executors.protocol import Executor
from batchinfer.job import load
from batchinfer.ledger import parts
from batchinfer.plan.plan import Plan, make_plan
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import open_store
from batchinfer.worker.context import Context, Done, Failed, Failure, Outcome

SOURCE = """
import ctypes
import os
import sys
import time
from pathlib import Path


class Model:
    def __init__(self, delay=0.0, loads=None, most=99, also_in_children=True):
        self.delay = delay
        if loads is not None:
            with open(loads, "a+") as log:
                log.seek(0)
                former = [line.split()[0] for line in log]
                log.write(" ".join([str(os.getpid()), *filter(runs, former)]) + "\\n")
            in_child = "batchinfer.worker.child" in " ".join(sys.orig_argv)
            if len(former) >= most and (also_in_children or not in_child):
                os._exit(9)

    def __call__(self, batch):
        time.sleep(self.delay)
        for x in batch["x"]:
            if x == -1:
                os._exit(7)
            if x == -2:
                raise ValueError("two")
            if x == -3:
                time.sleep(3600)
            if x == -4:
                time.sleep(1)
                ctypes.PyDLL(None).sleep(3600)  # and no other thread runs
        return {"y": [x + 1 for x in batch["x"]], "pid": [os.getpid()] * len(batch["x"])}


def runs(pid):
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] not in "ZX"
"""


class ExecutorContract:
    """See the module."""

    @abstractmethod
    def open(self, context: Context) -> Executor:
        """The executor under test."""

    def plan(self, folder: Path, x: list[int], retry: dict[str, object] | None = None, **options: object) -> Plan:
        """A job over the values `x`, ten to a shard, five to a window, and its plan; `options` are the model's."""
        (folder / "model_of_contract.py").write_text(SOURCE)
        pq.write_table(pa.table({"x": pa.array(x, pa.int64())}), folder / "input.parquet")
        fields = {
            "version": 1,
            "name": "contract",
            "code": [str(folder)],
            "input": {"path": str(folder / "input.parquet")},
            "model": {
                "engine": "python",
                "uri": "model_of_contract:Model",
                "inputs": {"x": "x"},
                "outputs": {"y": "y", "pid": "pid"},
                "options": options,
            },
            "retry": retry or {},
            "batching": {"rows": 2, "window": 5, "shard": 10},
            "output": {"path": str(folder / "output")},
        }
        return make_plan(load.from_fields(fields))

    def context(self, plan: Plan) -> Context:
        """What the executor's workers are given."""
        return Context(plan.spec, plan.reading, JobPaths("0123abcd"), threads=1, gpus=0)

    def drain(self, executor: Executor, count: int, seconds: float = 120) -> list[Outcome]:
        """The next `count` outcomes."""
        outcomes: list[Outcome] = []
        end = time.monotonic() + seconds
        while len(outcomes) < count:
            assert time.monotonic() < end, f"only {outcomes} came back"
            outcomes += executor.wait(0.2)
        return outcomes

    def test_every_shard_comes_back_once_with_a_part_that_stands(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path, list(range(95)))
        executor = self.open(self.context(plan))
        try:
            executor.start(executor.measure(plan.shards))
            waiting = list(plan.shards)
            outcomes: list[Outcome] = []
            while waiting or len(outcomes) < len(plan.shards):
                while waiting and executor.wants() > 0:
                    executor.submit(waiting.pop(0))
                outcomes += executor.wait(0.2)
            assert executor.wait(0.0) == []
            assert {len(executor.progress()), executor.workers} == {executor.workers}
        finally:
            executor.close()
        assert sorted(o.shard for o in outcomes) == list(range(10))
        store = open_store(plan.spec.output.path, scratch=paths.SCRATCH)
        for outcome in outcomes:
            assert isinstance(outcome, Done)
            assert parts.read(store, JobPaths("0123abcd"), outcome.shard) == outcome.part
            assert outcome.usage.rows == outcome.part.counts.succeeded

    def test_it_wants_two_shards_for_each_worker_so_that_none_waits(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path, list(range(95)), delay=0.05)
        executor = self.open(self.context(plan))
        try:
            executor.start(executor.measure(plan.shards))
            wanted = executor.wants()
            assert wanted == 2 * executor.workers
            for shard in plan.shards[:wanted]:
                executor.submit(shard)
            assert executor.wants() == 0
            self.drain(executor, wanted)
            assert executor.wants() == wanted
        finally:
            executor.close()

    def test_a_bad_row_costs_the_row_alone(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path, [*range(7), -2, *range(8, 10)])
        executor = self.open(self.context(plan))
        try:
            executor.start(executor.measure(plan.shards))
            executor.submit(plan.shards[0])
            (outcome,) = self.drain(executor, 1)
        finally:
            executor.close()
        assert isinstance(outcome, Done)
        assert (outcome.part.counts.succeeded, outcome.part.counts.dead) == (9, 1)

    def test_a_stopped_executor_gives_its_shards_back(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path, list(range(20)), delay=0.3)
        executor = self.open(self.context(plan))
        try:
            executor.start(executor.measure(plan.shards))
            for shard in plan.shards:
                executor.submit(shard)
            assert executor.wait(0.5) == []
            executor.stop()
            outcomes = self.drain(executor, 2, seconds=20)
        finally:
            executor.close()
        assert all(isinstance(o, Failed) and o.failure is Failure.STOPPED for o in outcomes)

    def test_a_damaged_input_is_said_as_such(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path, list(range(10)))
        (tmp_path / "input.parquet").write_bytes(b"PAR1 this is something else now PAR1")
        executor = self.open(self.context(plan))
        try:
            executor.start(executor.measure([]))
            executor.submit(plan.shards[0])
            (outcome,) = self.drain(executor, 1)
        finally:
            executor.close()
        assert isinstance(outcome, Failed)
        assert (outcome.failure, outcome.exit_code) == (Failure.INPUT, 2)
        assert "input.parquet" in outcome.error

    def test_what_a_worker_refuses_while_it_is_made_keeps_its_type(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path, list(range(10)))
        output = plan.spec.output.model_copy(update={"path": "gopher://nowhere/output"})
        context = self.context(replace(plan, spec=plan.spec.model_copy(update={"output": output})))
        with pytest.raises(RefusedError, match="gopher"), contextlib.closing(self.open(context)) as executor:
            executor.measure(plan.shards)


class ProcessContract(ExecutorContract):
    """Further, for executors whose workers have processes of their own, so that one may die."""

    def until_wanted(self, executor: Executor, shards: int) -> None:
        """Wait until the executor wants so many shards: until a replacement has loaded the model."""
        end = time.monotonic() + 120
        while executor.wants() < shards:
            assert time.monotonic() < end
            assert executor.wait(0.2) == []

    def test_a_worker_that_dies_is_replaced_and_its_shards_are_told(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path, [*range(10), *range(7), -1, *range(8, 20)])
        executor = self.open(self.context(plan))
        try:
            executor.start(executor.measure(plan.shards[:1]))
            executor.submit(plan.shards[1])
            (outcome,) = self.drain(executor, 1)
            assert isinstance(outcome, Failed)
            assert (outcome.shard, outcome.failure) == (1, Failure.DIED)
            self.until_wanted(executor, 2 * executor.workers - 1)
            assert executor.wants() == 2 * executor.workers - 1
            executor.submit(plan.shards[0])
            (outcome,) = self.drain(executor, 1)
            assert isinstance(outcome, Done)
        finally:
            executor.close()

    @pytest.mark.parametrize(
        ("row", "timeout", "why"), [(-3, "4s", "a call of the model"), (-4, "4s", "no sign of life")]
    )
    def test_a_worker_that_hangs_is_gone_before_another_takes_its_place(
        self, tmp_path: Path, row: int, timeout: str, why: str
    ) -> None:
        loads = tmp_path / "loads"
        plan = self.plan(tmp_path, [*range(19), row], retry={"timeout": timeout}, loads=str(loads))
        executor = self.open(self.context(plan))
        try:
            executor.start(executor.measure(plan.shards[:1]))
            executor.submit(plan.shards[1])
            (outcome,) = self.drain(executor, 1)
            assert isinstance(outcome, Failed)
            assert (outcome.shard, outcome.failure) == (1, Failure.HUNG)
            assert why in outcome.error
            self.until_wanted(executor, 2 * executor.workers - 1)
            loaded = [line.split() for line in loads.read_text().splitlines()]
            assert [len(line) for line in loaded] == [1, 1], f"loads, each with what ran of those before: {loaded}"
            executor.submit(plan.shards[0])
            (outcome,) = self.drain(executor, 1)
            assert isinstance(outcome, Done)
        finally:
            executor.close()

    @pytest.mark.parametrize(
        ("sound", "also_in_children", "why", "loads"),
        [(0, True, "exit 9", 2), (1, False, "2 workers ended", 4)],
    )
    def test_a_model_that_ends_what_loads_it_is_refused(
        self, tmp_path: Path, sound: int, also_in_children: bool, why: str, loads: int
    ) -> None:
        """After the first so many loads: in the worker that measures, or in the one that replaces another."""
        log = tmp_path / "loads"
        options = {"loads": str(log), "most": sound, "also_in_children": also_in_children}
        plan = self.plan(tmp_path, [*range(19), -1], retry={"max_retries": 1}, **options)
        executor = self.open(self.context(plan))

        def load_twice() -> None:
            executor.start(executor.measure(plan.shards[:1]))
            executor.submit(plan.shards[1])
            self.drain(executor, 2)

        try:
            with pytest.raises(ModelError, match=f"model_of_contract:Model can't be loaded.*{why}"):
                load_twice()
        finally:
            executor.close()
        assert len(log.read_text().splitlines()) == loads

    def test_shards_that_die_together_are_not_blamed(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path, [*range(9), -1, *range(10, 20)])
        executor = self.open(self.context(plan))
        try:
            executor.start(executor.measure(plan.shards[1:]))
            for shard in plan.shards:
                executor.submit(shard)
            outcomes = self.drain(executor, 2)
        finally:
            executor.close()
        assert sorted((o.shard, o.failure) for o in outcomes if isinstance(o, Failed)) == [
            (0, Failure.LOST),
            (1, Failure.LOST),
        ]
