"""Cascades whose threshold is found on the job's own rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from batchinfer import Job, Run
from batchinfer.errors import GateError, JobFileError, ModelError

MODELS = '''
class Small:
    """Right for an x that is divided by what is unsure of it; surer of large ones."""

    def __call__(self, batch):
        return {"label": [f"{x % 7}" if x % 100 > bad else "no" for x, bad in zip(batch["x"], batch["bad"])],
                "score": [float(x % 100) for x in batch["x"]], "even": [1.0] * len(batch["x"])}


class Big:
    def __init__(self, log=None):
        self.log = log

    def __call__(self, batch):
        if self.log:
            with open(self.log, "a") as file:
                file.write("".join(f"{x}\\\\n" for x in batch["x"]))
        return {"label": [f"{x % 7}" for x in batch["x"]]}
'''
ROWS = 6000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "models_of_cascades.py").write_text(MODELS.replace("\\\\n", "\\n"))
    generator = np.random.default_rng(0)
    x = generator.permutation(ROWS)
    bad = generator.integers(0, 25, ROWS)
    pl.DataFrame({"id": np.arange(ROWS), "x": x, "bad": bad}).write_parquet(tmp_path / "in.parquet")
    return tmp_path


def fields(folder: Path, cascade: Any = "auto", small: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    def model(name: str, kind: str, inputs: list[str], outputs: dict[str, str], **keys: Any) -> dict[str, Any]:
        uri = f"models_of_cascades:{kind}"
        return {
            "name": name,
            "engine": "python",
            "uri": uri,
            "inputs": {i: i for i in inputs},
            "outputs": outputs,
            **keys,
        }

    options = {"log": str(folder / "calls")}
    return {
        "version": 1,
        "name": "cascades",
        "code": [str(folder / "code")],
        "input": {"path": str(folder / "in.parquet"), "key": "id"},
        "steps": [
            model("small", "Small", ["x", "bad"], small or {"label": "first", "score": "sure"}),
            model("big", "Big", ["x"], {"label": "label"}, cascade=cascade, options=options),
            {"name": "rest", "when": "otherwise", "rules": {"label": "first"}},
        ],
        "resources": {"executor": "inline"},
        "output": {"path": str(folder / "out"), "columns": ["label", "sure"], "step_used": "by"},
        **more,
    }


def run(folder: Path, **more: Any) -> Run:
    return Job(**fields(folder, **more)).run()


def test_exactly_the_rows_below_the_threshold_go_to_the_big_model(folder: Path) -> None:
    made = run(folder, cascade={"agreement": 0.97})
    settings = next(s for s in made.record["settings"]["steps"] if s["name"] == "big")
    threshold = settings["threshold"]
    given = pl.read_parquet(folder / "in.parquet")
    frame = made.results().collect()
    assert frame["label"].len() == ROWS
    big = (given["x"] % 100) < threshold
    assert 0.02 < big.mean() < 0.3
    assert (frame["by"] == "big").equals(big)
    right = frame["label"] == (given["x"] % 7).cast(pl.String)
    assert right.filter(big).all()
    assert right.mean() >= 0.97
    chosen = settings["measured"]["cascade"]["chosen"]
    assert chosen["low"] >= 0.97
    assert abs(chosen["agreement"] - right.mean()) < 0.02
    calls = list(map(int, (folder / "calls").read_text().split()))
    assert sorted(calls[-int(big.sum()) :]) == sorted(given["x"].filter(big))


def test_a_run_that_goes_on_keeps_its_threshold(folder: Path) -> None:
    made = run(folder, batching={"shard": 1000, "window": 500})
    before = made.results().collect()
    part = sorted((folder / "out" / "data").glob("part-*"))[2]
    part.unlink()
    for path in (folder / "out" / "_batchinfer").rglob("manifests/*"):
        path.unlink()
    again = run(folder, batching={"shard": 1000, "window": 500})
    assert again.results().collect().equals(before)


def test_the_curve_is_shown(folder: Path) -> None:
    path = folder / "job.json"
    path.write_text(json.dumps(fields(folder)))
    done = subprocess.run(
        [sys.executable, "-m", "batchinfer", "run", str(path), "--progress", "plain"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "big takes rows of a confidence below" in done.stderr
    assert done.stderr.count("to it, agrees on") > 5


def test_confidence_without_a_signal_is_refused_before_the_first_shard(folder: Path) -> None:
    with pytest.raises(GateError, match=r"big\.cascade: of [\d,]+ rows of the job .* carries no signal"):
        run(folder, small={"label": "first", "even": "sure"}, cascade={"confidence": "sure", "answer": "first"})
    assert not list((folder / "out" / "data").glob("*.parquet"))


def test_too_much_is_refused_with_the_curve(folder: Path) -> None:
    with pytest.raises(GateError, match=r"at no threshold .* 99\.99% .*agrees on"):
        run(folder, cascade={"agreement": 0.9999, "sample": 64})


def test_what_cannot_be_told_is_said(folder: Path) -> None:
    with pytest.raises(
        JobFileError, match=r"big\.cascade: no step before has an output label and one called confidence or score"
    ):
        run(folder, small={"label": "first", "even": "sure"})
    with pytest.raises(
        ModelError, match=r"big\.cascade\.confidence: the column 'first' is string, and must be a number"
    ):
        run(folder, cascade={"confidence": "first", "answer": "first"})
    job = fields(folder)
    job["steps"][1]["when"] = "sure < 3"
    with pytest.raises(JobFileError, match="big: cascade stands in place of when"):
        Job(**job)
