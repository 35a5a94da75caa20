"""The quality gate in a run: a real module that a real recipe breaks is refused before the first shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import Job
from batchinfer.errors import GateError
from batchinfer.measure.settings import StepSettings
from batchinfer.report.words import precision as said

pytest.importorskip("torchao")

MODULE = """
import torch


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 64)

    def forward(self, x):
        return self.linear(x)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "network.py").write_text(MODULE)
    x = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)
    x[:, ::32] = 0.0
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 64)
    truth = pa.array(np.arange(2000))
    pq.write_table(pa.table({"x": column, "truth": truth}), tmp_path / "in.parquet", row_group_size=500)
    return tmp_path


def weights(folder: Path, outlier: float) -> Path:
    """A layer's weights; with an outlier, whose input is always zero, one weight of each group takes all steps of an integer."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)
    with torch.no_grad():
        if outlier:
            layer.weight[:, ::32] = outlier
    torch.save({f"linear.{name}": value for name, value in layer.state_dict().items()}, folder / "weights.pt")
    return folder / "weights.pt"


def job(folder: Path, precision: str, outlier: float, **model: Any) -> Job:
    return Job(**fields(folder, precision, outlier, **model))


def fields(folder: Path, precision: str, outlier: float, **model: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "gated",
        "code": [str(folder / "code")],
        "input": {"path": str(folder / "in.parquet")},
        "model": {
            "engine": "torch",
            "uri": "network:Network",
            "inputs": {"x": "x"},
            "outputs": {"y": "y"},
            "precision": precision,
            "options": {"weights": str(weights(folder, outlier))},
            **model,
        },
        "batching": {"shard": 250, "window": 250, "rows": 64},
        "resources": {"executor": "inline", "gpus": 0},
        "output": {"path": str(folder / "out"), "carry": "none"},
    }


def test_a_broken_int4_model_is_refused_before_the_first_shard_with_the_figures(folder: Path) -> None:
    with pytest.raises(GateError, match=r"model\.precision: int4-weight disagrees with fp32.*mean cosine") as refused:
        job(folder, "int4-weight", 1000.0).run()
    assert refused.value.exit_code == 2
    assert not list((folder / "out").glob("data/*"))
    (results,) = (folder / "out" / "_batchinfer").glob("*/run_results.json")
    recorded = json.loads(results.read_text())
    assert recorded["exit_code"] == 2
    assert "mean cosine" in recorded["errors"][0]


def test_a_good_int8_model_runs_and_its_verdict_is_in_settings_results_and_manifest(folder: Path) -> None:
    run = job(folder, "int8-weight", 0.0).run()
    assert run.exit_code == 0
    (state,) = (folder / "out" / "_batchinfer").glob("*/run_results.json")
    settings = json.loads(state.read_text())["settings"]["steps"][0]
    assert settings["precision"] == "int8-weight"
    verdict = settings["measured"]["gate"]
    assert verdict["passed"]
    assert verdict["rows"] == 512
    manifest = json.loads((state.parent / "manifests" / "0001.json").read_text())
    assert manifest["precision"] == {"model": {"name": "int8-weight", "gate": verdict}}


def test_fallback_runs_at_the_next_precision_that_passes(folder: Path) -> None:
    run = job(folder, "int4-weight", 1000.0, gate={"on_fail": "fallback"}).run()
    assert run.exit_code == 0
    (state,) = (folder / "out" / "_batchinfer").glob("*/run_results.json")
    recorded = json.loads(state.read_text())["settings"]["steps"][0]
    assert recorded["precision"] in ("bf16", "fp16", "tf32")
    assert "in place of int4-weight, which failed the gate" in recorded["measured"]["choice"]
    assert "int4-weight isn't taken: the gate failed" in said(StepSettings.from_json(recorded))


def test_gate_off_runs_what_is_asked_for_uncompared(folder: Path) -> None:
    run = job(folder, "int4-weight", 1000.0, gate="off").run()
    assert run.exit_code == 0
    (state,) = (folder / "out" / "_batchinfer").glob("*/run_results.json")
    recorded = json.loads(state.read_text())["settings"]["steps"][0]
    assert recorded["precision"] == "int4-weight"
    assert "gate" not in recorded["measured"]


def test_a_label_column_that_the_input_lacks_is_refused_when_the_job_is_planned(folder: Path) -> None:
    with pytest.raises(Exception, match=r"model\.gate\.label: the input has no column 'thruth'; did you mean 'truth'"):
        job(folder, "fp32", 0.0, gate={"label": "thruth"}).plan()
