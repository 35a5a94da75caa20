"""Time and money that a job may take: how they are counted, and that a run stops there and goes on from there."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchinfer import Job, JobFileError, Run
from batchinfer.errors import CircuitBreakerError
from batchinfer.executors.protocol import Pool
from batchinfer.ledger.spending import Meter, Spent
from batchinfer.report.figures import money
from batchinfer.run.events import Event, Finished, Settled
from batchinfer.run.limits import Limits
from batchinfer.run.resources import Allotment
from tests.run.workplace import Workplace, wait_for

A_SECOND = 3600.0
"""A price at which a device-second costs 1."""


class Clock:
    """Time that goes on as it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_device_seconds_are_the_devices_times_the_seconds_that_each_number_of_them_was_held() -> None:
    clock = Clock()
    meter = Meter(100.0, clock)
    clock.now += 7  # before workers are asked for
    meter.hold(2)
    clock.now += 10
    meter.hold(4)
    clock.now += 5
    assert meter.job_device_seconds == 100 + 2 * 10 + 4 * 5
    meter.hold(0)
    clock.now += 50
    assert meter.spent(18.0) == Spent(4, 40.0, 140.0, 18.0)
    assert (meter.spent(18.0).cost, meter.spent(18.0).job_cost) == (0.2, 0.7)
    assert meter.to_json() == {"device_seconds": 40.0, "job_device_seconds": 140.0}
    assert meter.seconds == 72


def test_without_a_price_there_is_no_cost() -> None:
    assert Spent(1, 10.0, 20.0).to_json() == {
        "devices": 1,
        "device_seconds": 10.0,
        "job_device_seconds": 20.0,
        "cost": None,
        "job_cost": None,
    }


@pytest.mark.parametrize(
    ("limits", "seconds", "device_seconds", "why"),
    [
        (Limits(), 1e9, 1e9, None),
        (Limits(max_runtime=60), 59.9, 1e9, None),
        (Limits(max_runtime=60), 60, 0, "run.max_runtime of 60 s is over"),
        (Limits(max_cost=5, price_per_hour=10), 1e9, 1799, None),
        (Limits(max_cost=5, price_per_hour=10), 0, 1800, "run.max_cost of 5 is spent"),
        (Limits(60, 5, 10), 61, 1799, "run.max_runtime"),
        (Limits(60, 5, 10), 59, 1801, "run.max_cost"),
    ],
)
def test_a_limit_is_exceeded_from_its_value_on(
    limits: Limits, seconds: float, device_seconds: float, why: str | None
) -> None:
    said = limits.exceeded(seconds, device_seconds)
    assert said is None if why is None else said is not None and said.startswith(why)


@pytest.mark.parametrize(
    ("allotment", "workers", "actors", "devices"),
    [
        (Allotment("inline", 1, 8, None), 1, {}, 1),
        (Allotment("inline", 1, 8, 1.0), 1, {}, 1),
        (Allotment("ray", 3, 2, 0), 3, {}, 3),
        (Allotment("ray", 4, 2, 0.5), 4, {}, 2),
        (Allotment("ray", None, 2, 2.0), 4, {}, 8),
        (Allotment("ray", 6, 1, 0, {"big": Pool(1, 4, 2, 1.0)}), 6, {"big": 3}, 3),
        (Allotment("ray", 2, 1, 0, {"a": Pool(1, 1, 2, None), "b": Pool(2, 2, 2, None)}), 2, {"a": 1, "b": 2}, 5),
    ],
)
def test_a_device_is_a_gpu_and_without_any_the_place_of_a_worker(
    allotment: Allotment, workers: int, actors: dict[str, int], devices: float
) -> None:
    assert allotment.devices(workers, actors) == devices


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (0.00012345, "0.000123"), (0.41, "0.41"), (0.9999, "1"), (1, "1.00"), (1250.3, "1,250.30")],
)
def test_money_has_cents_or_three_figures(amount: float, text: str) -> None:
    assert money(amount) == text


def test_a_limit_of_money_without_a_price_is_refused_with_what_to_add(workplace: Workplace) -> None:
    with pytest.raises(JobFileError, match=r"run\.max_cost: needs a price to count by: add resources\.price_per_hour"):
        Job(**workplace.fields(run={"max_cost": 5}))


@pytest.mark.parametrize("value", [0, -1, "5 EUR", True, float("inf")])
def test_money_is_a_number_above_zero(workplace: Workplace, value: Any) -> None:
    with pytest.raises(JobFileError):
        Job(**workplace.fields(resources={"price_per_hour": value}))


def slow(workplace: Workplace, price: float | None = A_SECOND, **more: Any) -> dict[str, Any]:
    """Sections of a job that takes 4 s and notes what its model sees."""
    options = {"delay": 0.02, "log": str(workplace.log)}
    return {"model": {"options": options}, "resources": {"price_per_hour": price}, **more}


def every_row_once(run: Run, rows: int) -> None:
    assert (run.exit_code, run.counts.succeeded) == (0, rows)
    frame = run.results().select("id", "y").collect()
    assert frame.equals(pl.DataFrame({"id": range(rows), "y": [2.0 * n for n in range(rows)]}))
    assert run.verify().findings == []


def test_a_run_that_has_spent_max_cost_stops_resumably_and_says_why(workplace: Workplace) -> None:
    workplace.write(6000)
    first = workplace.run(**slow(workplace, run={"max_cost": 1.5})).record
    assert (first["exit_code"], first["state"], first["devices"]) == (75, "INTERRUPTED", 1)
    assert first["errors"][0].startswith("run.max_cost of 1.5 is spent: ")
    assert 1.5 <= first["cost"] < 100
    assert first["cost"] == first["job_cost"] == pytest.approx(first["device_seconds"], abs=1e-3)
    assert 0 < workplace.newly_seen() < 6000

    again = workplace.run(**slow(workplace, run={"max_cost": 1.5})).record
    assert again["exit_code"] == 75
    assert again["errors"][0].startswith("run.max_cost of 1.5 is spent: ")
    assert "--set run.max_cost=3" in again["errors"][0]
    assert (again["device_seconds"], again["job_cost"]) == (0, pytest.approx(first["job_cost"], abs=1e-3))
    assert workplace.newly_seen() == 0, "no model is loaded where nothing is left to spend"

    last = workplace.run(**slow(workplace, run={"max_cost": 500}))
    every_row_once(last, 6000)
    assert last.record["job_cost"] == pytest.approx(first["job_cost"] + last.record["cost"], abs=0.01)
    assert 0 < last.record["cost"] < last.record["job_cost"]


def test_a_retry_counts_what_the_job_has_spent_before(workplace: Workplace) -> None:
    workplace.write(300, bad={7})
    run = workplace.run(**slow(workplace)).record
    workplace.mend()
    stopped = workplace.retry(**slow(workplace, run={"max_cost": run["job_cost"] / 2})).record
    assert (stopped["exit_code"], stopped["errors"][0][:12]) == (75, "run.max_cost")
    retried = workplace.retry(**slow(workplace, run={"max_cost": 500})).record
    assert (retried["exit_code"], retried["rows"]["dead"]) == (0, 0)
    assert retried["job_cost"] == pytest.approx(run["job_cost"] + retried["cost"], abs=0.01)


def test_a_job_begun_anew_has_spent_nothing(workplace: Workplace) -> None:
    workplace.write(300)
    workplace.run(**slow(workplace))
    record = workplace.run(restart=True, **slow(workplace)).record
    assert record["job_cost"] == record["cost"] > 0


def test_a_run_with_nothing_to_do_tells_what_the_runs_before_spent(workplace: Workplace) -> None:
    workplace.write(300)
    events: list[Event] = []
    first = workplace.run(**slow(workplace, None)).record
    assert (first["cost"], first["job_cost"], first["devices"]) == (None, None, 1)
    workplace.run(events=events, **slow(workplace))
    assert isinstance(events[-1], Finished)
    spent = events[-1].result.spent
    assert (spent.devices, spent.cost) == (0, 0)
    assert spent.job_device_seconds == pytest.approx(first["device_seconds"], abs=1e-3)
    assert spent.job_cost == spent.job_device_seconds > 0


def test_a_run_that_an_error_ends_tells_what_it_spent(workplace: Workplace) -> None:
    workplace.write(300)
    workplace.edit("time.sleep(self.delay)", "raise ValueError('broken')")
    with pytest.raises(CircuitBreakerError):
        workplace.run(**slow(workplace))
    record = workplace.opened().record
    assert (record["exit_code"], record["devices"]) == (3, 1)
    assert 0 < record["cost"] == record["job_cost"]


@pytest.mark.slow
def test_what_a_killed_run_spent_counts_up_to_its_last_heartbeat(workplace: Workplace) -> None:
    workplace.write(3000)
    sections = slow(workplace)
    sections["model"]["options"]["delay"] = 0.2
    process = workplace.start(**sections)

    def has_beaten() -> bool:
        beats = list((workplace.folder / "output").rglob("heartbeats/*.json"))
        return any(json.loads(beat.read_bytes()).get("device_seconds", 0) > 5 for beat in beats)

    wait_for(has_beaten, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = workplace.run(**{**sections, "run": {"max_cost": 5}}).record
    assert (stopped["exit_code"], stopped["device_seconds"]) == (75, 0)
    assert 5 < stopped["job_cost"] < 100
    last = workplace.run(**{**sections, "run": {"max_cost": 500}})
    every_row_once(last, 3000)
    assert last.record["job_cost"] == pytest.approx(stopped["job_cost"] + last.record["cost"], abs=0.01)


@pytest.mark.slow
def test_max_runtime_ends_a_model_that_is_measured(tmp_path: Path) -> None:
    """The gate compares 512 texts at two precisions, which takes longer."""
    job = Job.from_yaml(
        "jobs/quickstart.yaml",
        set_values=[f"output.path={tmp_path}/output", "model.precision=bf16", "run.max_runtime=4s"],
    )
    events: list[Event] = []
    run = job.run(listener=events.append)
    assert run.exit_code == 75
    assert run.record["errors"] == ["run.max_runtime of 4 s is over; the same command goes on from here"]
    assert not any(isinstance(event, Settled) for event in events), "it was still measured"


def test_max_runtime_counts_the_loading_of_a_model(workplace: Workplace) -> None:
    workplace.write(300)
    workplace.edit("self.delay, self.log = delay, log", "self.delay, self.log = delay, log; time.sleep(1.5)")
    run = workplace.run(**slow(workplace, run={"max_runtime": 1}))
    assert (run.exit_code, run.record["errors"][0][:15]) == (75, "run.max_runtime")
    assert run.counts.not_attempted == 300
    every_row_once(workplace.run(**slow(workplace)), 300)


@pytest.mark.ray
@pytest.mark.slow
def test_max_runtime_ends_the_wait_for_a_worker_that_a_cluster_has_no_place_for(workplace: Workplace) -> None:
    workplace.write(300)
    sections = slow(workplace, run={"max_runtime": 6})
    sections["resources"] |= {"executor": "ray", "gpus": 3.0}
    begun = time.monotonic()
    run = workplace.run(**sections)
    assert time.monotonic() - begun < 200
    assert (run.exit_code, run.record["errors"][0][:15]) == (75, "run.max_runtime")
    assert (run.record["devices"], run.counts.not_attempted) == (3, 300)
