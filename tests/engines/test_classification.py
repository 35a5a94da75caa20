"""Labels of texts and of tokens, beside what the pipelines of transformers say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.testing.engines import EngineContract
from tests.engines.models import loaded, run, step, texts, tiny


class TestTextClassification(EngineContract):
    def build(self) -> Step:
        self.make(0)
        inputs = {"text": "t", "text_pair": "u"}
        outputs = {"label": "l", "score": "s", "scores": "all"}
        return step(str(self.folder), "text-classification", outputs, inputs)

    def make(self, seed: int) -> None:
        tiny(self.folder, "BertForSequenceClassification", ["bad", "good", "so-so"], seed)

    def rows(self) -> pa.Table:
        return pa.table({"t": texts(20), "u": texts(20)[::-1]})

    def change(self) -> None:
        self.make(1)


class TestTokenClassification(EngineContract):
    def build(self) -> Step:
        self.make(0)
        return step(str(self.folder), "token-classification", {"entities": "e"})

    def make(self, seed: int) -> None:
        tiny(self.folder, "BertForTokenClassification", ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], seed)

    def rows(self) -> pa.Table:
        return pa.table({"t": texts(20)})

    def change(self) -> None:
        self.make(1)


def pipeline(folder: Path, task: str, **more: Any) -> Callable[..., Any]:
    import transformers

    return transformers.pipeline(task, model=str(folder), device="cpu", **more)


@pytest.mark.parametrize(
    ("labels", "config"),
    [
        (["bad", "good", "so-so"], {}),
        (["bad", "good", "so-so"], {"problem_type": "multi_label_classification"}),
        (["a", "b"], {"problem_type": "regression"}),
        (["toxic"], {}),
    ],
)
def test_text_classification_equals_the_pipeline(tmp_path: Path, labels: list[str], config: dict[str, Any]) -> None:
    # A seed whose random weights give some texts each label.
    tiny(tmp_path, "BertForSequenceClassification", labels, seed=3, **config)
    values = texts(30)
    outputs = {"label": "l", "score": "s", "scores": "all"}
    ours = run(loaded(step(str(tmp_path), "text-classification", outputs)), pa.table({"t": values}))
    theirs = pipeline(tmp_path, "text-classification", top_k=None)(values, truncation=True)
    assert len(set(ours["label"].to_pylist())) > 1 or len(labels) == 1
    for row, scores in enumerate(theirs):
        best = max(scores, key=lambda entry: entry["score"])
        assert ours["label"][row].as_py() == best["label"]
        assert ours["score"][row].as_py() == pytest.approx(best["score"], abs=1e-5)
        by_label = {entry["label"]: entry["score"] for entry in scores}
        assert ours["scores"][row].as_py() == pytest.approx([by_label[label] for label in labels], abs=1e-5)


def test_pairs_of_texts_equal_the_pipeline(tmp_path: Path) -> None:
    tiny(tmp_path, "BertForSequenceClassification", ["no", "yes"])
    # The pipeline takes an empty second text for none; a tokenizer that gets batches of pairs, as ours, does not.
    first, second = texts(30), [text or "a" for text in reversed(texts(30))]
    what = step(str(tmp_path), "text-classification", {"score": "s", "label": "l"}, {"text_pair": "u", "text": "t"})
    ours = run(loaded(what), pa.table({"t": first, "u": second}))
    pairs = [{"text": a, "text_pair": b} for a, b in zip(first, second, strict=True)]
    theirs = pipeline(tmp_path, "text-classification")(pairs, truncation=True)
    assert ours["label"].to_pylist() == [entry["label"] for entry in theirs]
    assert ours["score"].to_pylist() == pytest.approx([entry["score"] for entry in theirs], abs=1e-5)


@pytest.mark.parametrize(
    "labels",
    [["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], ["X-A-B", "O", "PER", "B-PER", "I-X-Y"], ["B-O", "PER", "I-PER"]],
)
def test_token_classification_equals_the_pipeline(tmp_path: Path, labels: list[str]) -> None:
    tiny(tmp_path, "BertForTokenClassification", labels)
    values = [text for text in texts(40) if text.strip()]
    ours = run(loaded(step(str(tmp_path), "token-classification", {"entities": "e"})), pa.table({"t": values}))
    recognise = pipeline(tmp_path, "token-classification", aggregation_strategy="simple")
    found = 0
    for value, entities in zip(values, ours["entities"].to_pylist(), strict=True):
        # The pipeline cuts at the tokenizer's model_max_length, as we do.
        expected = recognise(value)
        found += len(expected)
        assert [(e["label"], e["start"], e["end"]) for e in entities] == [
            (e["entity_group"], e["start"], e["end"]) for e in expected
        ]
        assert [e["score"] for e in entities] == pytest.approx([float(e["score"]) for e in expected], abs=1e-5)
    assert found > 50


def test_a_model_without_a_head_for_the_task_is_refused(tmp_path: Path) -> None:
    tiny(tmp_path, "BertModel", ["a", "b"])
    with pytest.raises(ModelError, match=r"no weights for classifier\.bias, classifier\.weight: .*random"):
        loaded(step(str(tmp_path), "text-classification", {"label": "l"}))
