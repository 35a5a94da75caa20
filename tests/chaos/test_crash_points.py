"""The program killed at every step of the protocol: the same command again ends with the same files."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.place import ON_RAY, Place, ended, one_kill

DRIVER = [
    ("create", "_batchinfer/probes/", 1),
    ("delete", "_batchinfer/probes/", 1),
    ("create", "_batchinfer/jobs/", 1),
    ("create", "/epochs/", 1),
    ("create", "/plans/", 1),
    ("put", "run_results.json", 1),
    ("create", "settings.json", 1),
    ("create", "/manifests/", 1),
    ("put", "data/_SUCCESS", 1),
    ("put", "run_results.json", 2),
    ("put", "/closed/", 1),
]
WORKER = [
    ("put", "/wip/", 1),
    ("put", "/wip/", 3),
    ("put", "_dead_letter/", 1),
    ("create", "data/part-", 1),
    ("delete", "/wip/", 1),
]
LAST_PART = ("create", "data/part-", 3)
LINK = ("link", "data/part-", 2)
"""Inside a local create: the part stands, and its temporary file too."""


def name_of(value: Any) -> str | None:
    return " ".join(map(str, value)) if isinstance(value, tuple) else None


def crash(place: Place, step: tuple[str, str, int], when: str, role: str = "driver") -> int:
    """Kill the program at the step; the exit code of the process."""
    verb, path, count = step
    code, said = ended(place.launch(chaos={"role": role, "points": [place.point(verb, path, when, count)]}))
    assert place.struck, f"the step was not reached: {said}"
    return code


def check(place: Place, step: tuple[str, str, int], when: str) -> None:
    assert crash(place, step, when) == -9
    code, said = place.finish()
    assert code == 0, said


@pytest.mark.parametrize(
    ("step", "when"),
    [
        (("create", "_batchinfer/jobs/", 1), "after"),
        (("create", "settings.json", 1), "before"),
        (("put", "/wip/", 3), "after"),
        (("put", "_dead_letter/", 1), "after"),
        (LINK, "after"),
        (("delete", "/wip/", 1), "before"),
        (("create", "/manifests/", 1), "after"),
    ],
    ids=name_of,
)
def test_a_kill_at_a_step_costs_nothing_that_was_durable(
    place: Place, note: Any, step: tuple[str, str, int], when: str
) -> None:
    check(place, step, when)
    note("kill at a step, local disk", place, one_kill())


@pytest.mark.parametrize(
    ("step", "when"), [(("create", "data/part-", 1), "after"), (("create", "/epochs/", 1), "before")], ids=name_of
)
@pytest.mark.slow
def test_a_kill_at_a_step_on_an_object_store(lake: Place, note: Any, step: tuple[str, str, int], when: str) -> None:
    check(lake, step, when)
    note("kill at a step, S3", lake, one_kill())


@pytest.mark.chaos
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [*DRIVER, *WORKER, LAST_PART, LINK], ids=name_of)
def test_every_step_on_local_disk(
    place: Place, note: Any, step: tuple[str, str, int], when: str, repetition: int
) -> None:
    check(place, step, when)
    note("kill at a step, local disk", place, one_kill())


@pytest.mark.chaos
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [*DRIVER, *WORKER, LAST_PART], ids=name_of)
def test_every_step_on_an_object_store(
    lake: Place, note: Any, step: tuple[str, str, int], when: str, repetition: int
) -> None:
    check(lake, step, when)
    note("kill at a step, S3", lake, one_kill())


def check_worker(place: Place, step: tuple[str, str, int], when: str) -> None:
    """The worker's death is the run's business: it goes on by itself."""
    place.more["resources"] = ON_RAY
    assert crash(place, step, when, role="worker") == 0


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_killed_before_its_part_is_replaced(place: Place, note: Any) -> None:
    check_worker(place, ("create", "data/part-", 1), "before")
    note("kill of a Ray worker at a step, local disk", place, one_kill())


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.parametrize("where", ["place", "lake"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", WORKER, ids=name_of)
def test_every_step_of_a_worker(
    request: pytest.FixtureRequest, note: Any, where: str, step: tuple[str, str, int], when: str, repetition: int
) -> None:
    place = request.getfixturevalue(where)
    check_worker(place, step, when)
    note(f"kill of a Ray worker at a step, {'local disk' if where == 'place' else 'S3'}", place, one_kill())
