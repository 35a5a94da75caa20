"""A secret that comes from the environment stands in no file of an output, whatever its key is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchinfer import Job
from batchinfer.errors import FingerprintError
from tests.run.workplace import Workplace

CANARY = "canary-7f3a91c2d4"


@pytest.fixture
def job(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A job with the canary in its options and its filter, under names that say nothing of secrets."""
    monkeypatch.setenv("CANARY", CANARY)
    workplace.write(100, bad={5})
    workplace.edit("delay: float = 0.0,", "delay: float = 0.0, auth=None, headers=(), nested=None,")
    return workplace.fields(
        params={"through": "${CANARY}"},
        input={"where": "id < 90 AND '${CANARY}' <> 'x'"},
        model={
            "options": {"auth": "${CANARY}", "headers": ["X ${CANARY}"], "nested": {"a": {"b": "${params.through}"}}}
        },
        metadata={"note": "${CANARY}"},
        storage={"s3://elsewhere/": {"secret": "${CANARY}", "client_kwargs": {"opaque": "${CANARY}"}}},
    )


def holding(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]


def test_no_file_of_the_output_holds_it(workplace: Workplace, job: dict[str, Any]) -> None:
    run = Job(**job).run()
    assert (run.exit_code, run.counts.succeeded, run.counts.dead) == (3, 89, 1)
    assert holding(workplace.folder / "output") == []
    assert CANARY not in repr(Job(**job)) + repr(run) + repr(Job(**job).spec)
    verification = run.verify(deep=True)
    assert verification.findings == []
    assert "`where` is of the environment" in verification.notes[0]


def test_another_value_is_another_job_and_the_difference_shows_neither(
    workplace: Workplace, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Job(**job).run()
    monkeypatch.setenv("CANARY", "canary-another")
    with pytest.raises(FingerprintError, match=r"steps\.model\.options\.auth") as refused:
        Job(**job).run()
    assert "canary" not in str(refused.value)


def test_the_terminal_shows_it_nowhere(workplace: Workplace, job: dict[str, Any]) -> None:
    import json

    path = workplace.folder / "job.yaml"
    path.write_text(json.dumps(job))
    for verb in (
        ["run", "--json"],
        ["run"],
        ["plan"],
        ["plan", "--json"],
        ["status"],
        ["errors"],
        ["verify", "--deep"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "batchinfer", verb[0], str(path), *verb[1:]],
            capture_output=True,
            text=True,
            env=os.environ,
        )
        assert done.returncode in (0, 3), done.stderr
        assert CANARY not in done.stdout + done.stderr, verb
    assert holding(workplace.folder / "output") == []
