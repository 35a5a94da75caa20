"""The onnx engine on texts: the same predictions as the transformers engine gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.engines.checks import check
from batchinfer.engines.registry import identify, open_engine
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.testing.engines import EngineContract
from tests.engines.graphs import FLOAT, export_text, one
from tests.engines.models import assert_same_findings, loaded, minilm_folder, run, step, texts, tiny, vectors

LABELS = ["O", "B-PER", "I-PER"]


def as_onnx(what: Step, **keys: Any) -> Step:
    return what.model_copy(update={"engine": "onnx", **keys})


class TestTexts(EngineContract):
    def build(self) -> Step:
        tiny(self.folder, "BertModel", ["a"])
        export_text(self.folder, "AutoModel", "last_hidden_state")
        return as_onnx(step(str(self.folder), "embedding", {"embedding": "e"}))

    def rows(self) -> pa.Table:
        return pa.table({"t": texts(12)})

    def change(self) -> None:
        path = self.folder / "tokenizer.json"
        path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))


@pytest.mark.slow
def test_minilm_gives_the_embeddings_that_torch_gives(tmp_path: Path) -> None:
    shutil.copytree(minilm_folder(), tmp_path / "m")
    export_text(tmp_path / "m", "AutoModel", "last_hidden_state")
    what, table = step(str(tmp_path / "m"), "embedding", {"embedding": "e"}), pa.table({"t": texts(50)})
    theirs = vectors(run(loaded(what), table)["embedding"])
    ours = vectors(run(loaded(as_onnx(what)), table)["embedding"])
    assert (ours * theirs).sum(1).min() >= 0.9999
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "model_class", "outputs"),
    [
        ("text-classification", "BertForSequenceClassification", ["label", "score", "scores"]),
        ("token-classification", "BertForTokenClassification", ["entities"]),
    ],
)
def test_labels_and_entities_are_those_of_the_transformers_engine(
    tmp_path: Path, task: str, model_class: str, outputs: list[str]
) -> None:
    tiny(tmp_path, model_class, LABELS)
    export_text(tmp_path, model_class, "logits")
    what, table = step(str(tmp_path), task, {name: name for name in outputs}), pa.table({"t": texts(40)})
    ours, theirs = run(loaded(as_onnx(what)), table), run(loaded(what), table)
    assert_same_findings(task, ours, theirs)


def test_what_lies_beside_the_graph_is_part_of_the_model(tmp_path: Path) -> None:
    tiny(tmp_path, "BertModel", ["a"])
    (tmp_path / "onnx").mkdir()
    export_text(tmp_path, "AutoModel", "last_hidden_state")
    (tmp_path / "model.onnx").rename(tmp_path / "onnx" / "model.onnx")
    files = identify(as_onnx(step(str(tmp_path), "embedding", {"embedding": "e"}))).files
    assert {"model.onnx", "tokenizer.json", "config.json"} <= set(files)
    assert "model.safetensors" not in files
    shutil.copy(tmp_path / "onnx" / "model.onnx", tmp_path / "other.onnx")
    several = as_onnx(step(str(tmp_path), "embedding", {"embedding": "e"}))
    with pytest.raises(ModelError, match=r"must hold one \.onnx file, and holds onnx/model\.onnx, other\.onnx"):
        check(several)
    check(several.model_copy(update={"options": {"file": "other.onnx"}}))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"there is no tokenizer\.json beside"):
        check(several.model_copy(update={"options": {"file": "other.onnx"}}))


def test_a_graph_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    tiny(tmp_path, "BertModel", ["a"])
    what = as_onnx(step(str(tmp_path), "embedding", {"embedding": "e"}))
    one(tmp_path / "model.onnx", "Abs", (FLOAT, ["n", 3]), (FLOAT, ["n", 3]))
    with pytest.raises(ModelError, match=r"is no text encoder: it takes x: tensor\(float\)"):
        open_engine(what).load("cpu", "fp32", 1)


def test_a_task_that_the_graph_does_not_serve_is_refused(tmp_path: Path) -> None:
    tiny(tmp_path, "BertForSequenceClassification", LABELS)
    export_text(tmp_path, "BertForSequenceClassification", "logits")
    with pytest.raises(ModelError, match=r"embedding needs an output of 3 axes.*gives logits"):
        open_engine(as_onnx(step(str(tmp_path), "embedding", {"embedding": "e"}))).load("cpu", "fp32", 1)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"2": "I-PER"', '"2": "I-PER", "3": "more"'))
    with pytest.raises(ModelError, match="names 4 labels, and the model scores 3"):
        open_engine(as_onnx(step(str(tmp_path), "text-classification", {"label": "l"}))).load("cpu", "fp32", 1)
