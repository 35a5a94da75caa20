"""Jobs of several steps that are killed: the same command again gives the files of an uninterrupted run, and redoes little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchinfer import Run
from tests.run.workplace import Workplace, files_below, wait_for

ROWS, BATCH, INTERVAL, DELAY = 1600, 25, 0.25, 0.03
REDONE = BATCH / DELAY * INTERVAL + 2 * BATCH
"""Rows of a model at most that one kill costs."""
MODELS = '''
import time


class Labels:
    """The name of the model and of the row; raises for a null, and for what it is told to."""

    def __init__(self, name, log, delay, bad=()):
        self.name, self.log, self.delay, self.bad = name, log, delay, set(bad)

    def __call__(self, batch):
        time.sleep(self.delay)
        with open(self.log, "a") as log:
            log.write(f"{len(batch['x'])}\\n")
        for x in batch["x"]:
            if x is None or x in self.bad:
                raise ValueError(f"{x} is not for {self.name}")
        sure = [0.1 if int(x) % 3 else 0.9 for x in batch["x"]]
        return {"label": [f"{self.name} {int(x) % 7}" for x in batch["x"]], "sure": sure}
'''
DEAD, SKIPPED = 77, 1300
"""A row of the first model, and one that the second fails on and that goes on without it."""


class Pipeline:
    """A cascade with another model for the rest, a rule before it and a vote behind it, over one input."""

    def __init__(self, folder: Path) -> None:
        self.place = Workplace(folder)
        (folder / "code" / "labelling.py").write_text(MODELS)
        self.place.write(ROWS, bad={DEAD})
        self.whole: dict[str, int] = {}
        """Rows that the models see in an uninterrupted run."""

    def model(self, name: str, outputs: dict[str, str], **more: Any) -> dict[str, Any]:
        bad = [SKIPPED] if name == "big" else []
        options = {"name": name, "log": str(self.log(name)), "delay": DELAY, "bad": bad}
        return {
            "name": name,
            "engine": "python",
            "uri": "labelling:Labels",
            "inputs": {"x": "x"},
            "outputs": outputs,
            "options": options,
            **more,
        }

    def sections(self, output: str, **more: Any) -> dict[str, Any]:
        steps = [
            {"name": "derived", "rules": {"half": "x / 2.0"}},
            self.model("small", {"label": "first", "sure": "sure"}),
            self.model("big", {"label": "second"}, when="sure < 0.5", errors={"on_failure": "skip"}),
            self.model("plain", {"label": "second"}, when="otherwise"),
            {
                "name": "vote",
                "combine": "vote",
                "inputs": ["first", "second"],
                "outputs": {"value": "y", "votes": "votes"},
            },
        ]
        return {
            "steps": steps,
            "checkpoint": {"interval": INTERVAL},
            "errors": {"threshold": -1},
            "batching": {"rows": BATCH, "tokens": 100, "window": 200, "shard": 800},
            "output": {"path": str(self.place.folder / output), "columns": ["half", "sure", "second", "y", "votes"]},
            "cache": {"deduplicate": False},
            **more,
        }

    def log(self, name: str) -> Path:
        return self.place.folder / f"{name}.log"

    def seen(self) -> dict[str, int]:
        """Rows that each model saw since this was asked last."""
        counts = {}
        for name in ("small", "big", "plain"):
            log = self.log(name)
            counts[name] = sum(map(int, log.read_text().split())) if log.exists() else 0
            log.unlink(missing_ok=True)
        return counts

    def checkpointed(self, output: str) -> set[str]:
        """Steps that chunks on an output are of."""
        steps = set()
        for path in files_below(self.place.folder / output):
            if path.suffix != ".arrow":
                continue
            try:
                metadata = pa.ipc.open_file(path).schema.metadata
            except (FileNotFoundError, pa.ArrowInvalid):  # its part stands now
                continue
            steps.add(metadata[b"batchinfer.step"].decode())
        return steps

    def killed(self, output: str, moment: Callable[[], object], **more: Any) -> None:
        """Begin, and be killed as soon as something has happened."""
        process = self.place.start(**self.sections(output, **more))
        wait_for(moment, process)
        process.kill()
        process.wait()

    def finished(self, output: str, **more: Any) -> Run:
        run = self.place.run(**self.sections(output, **more))
        assert run.exit_code == 0
        return run


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """With the output of an uninterrupted run at `reference`."""
    made = Pipeline(tmp_path_factory.mktemp("pipeline"))
    made.finished("reference")
    made.whole = made.seen()
    return made


def test_the_uninterrupted_run_has_rows_of_every_way(pipeline: Pipeline) -> None:
    run = pipeline.place.opened("reference")
    frame = run.results().collect().sort("id")
    assert run.counts.dead == 1
    assert len(frame) == ROWS - 1
    assert frame.filter(id=SKIPPED)["votes"].to_list() == [1]
    assert set(frame["second"].drop_nulls().str.split(" ").list.first()) == {"big", "plain"}
    assert frame["half"].to_list() == [n / 2 for n in range(ROWS) if n != DEAD]


@pytest.mark.parametrize("step", ["small", "big", None])
def test_a_killed_pipeline_continues_at_the_step_that_it_was_at(pipeline: Pipeline, step: str | None) -> None:
    """After the first checkpoint of a step, or the first part."""
    output = f"killed-at-{step or 'part'}"
    parts = pipeline.place.folder / output / "data"
    pipeline.seen()
    pipeline.killed(output, lambda: step in pipeline.checkpointed(output) if step else list(parts.glob("*.parquet")))
    run = pipeline.finished(output)
    assert run.verify(deep=True).findings == []
    assert pipeline.place.digests(output) == pipeline.place.digests("reference")
    assert pipeline.place.dead(output) == pipeline.place.dead("reference")
    for name, rows in pipeline.seen().items():
        assert 0 <= rows - pipeline.whole[name] <= REDONE, name


def test_a_pipeline_that_is_killed_again_and_again_ends_with_the_same_files(pipeline: Pipeline) -> None:
    seen: set[Path] = set()

    def more() -> bool:
        return bool(set(pipeline.place.folder.glob("often/_batchinfer/*/wip/*/*.arrow")) - seen)

    for _ in range(2):
        pipeline.killed("often", more)
        seen |= set(pipeline.place.folder.glob("often/_batchinfer/*/wip/*/*.arrow"))
    pipeline.finished("often")
    assert pipeline.place.digests("often") == pipeline.place.digests("reference")


def test_what_a_killed_pipeline_left_in_the_cache_is_true(pipeline: Pipeline) -> None:
    """Another job, on another output, takes it over."""
    cache = pipeline.place.folder / "cache"
    asked = {"cache": {"path": str(cache), "deduplicate": False}}
    pipeline.seen()
    pipeline.killed("first", lambda: list(cache.glob("*/*.keys")), **asked)
    pipeline.seen()
    pipeline.finished("second", **asked)
    assert pipeline.place.digests("second") == pipeline.place.digests("reference")
    assert sum(pipeline.seen().values()) < sum(pipeline.whole.values())
