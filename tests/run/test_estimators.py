"""Whole jobs with estimators of scikit-learn: what they give equals the same by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.datasets import load_digits
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB, MultinomialNB

from batchinfer import Job, Run
from tests.engines.models import MINILM

TEXTS = [f"{('the soup was cold', 'what a lovely evening', 'bring the bill')[n % 3]}, {n} times" for n in range(60)]


def job(folder: Path, *steps: dict[str, Any]) -> Run:
    return Job(
        version=1,
        name="estimators",
        code=[str(folder)],
        input={"path": str(folder / "in.parquet")},
        steps=list(steps),
        batching={"shard": 500, "window": 250},
        resources={"executor": "inline"},
        output={"path": str(folder / "out"), "carry": "none"},
    ).run()


def estimator(name: str, path: Path, **outputs: str) -> dict[str, Any]:
    return {"name": name, "engine": "sklearn", "uri": str(path), "inputs": {"x": "x"}, "outputs": outputs}


def test_an_embedding_into_a_classifier_equals_the_same_by_hand(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    embedding = {
        "name": "embed",
        "engine": "transformers",
        "uri": MINILM,
        "task": "embedding",
        "inputs": {"text": "text"},
        "outputs": {"embedding": "x"},
        "precision": "fp32",
    }
    alone = job(tmp_path, embedding).results().collect()["x"].to_numpy()
    kinds = np.array([n % 3 for n in range(60)])
    model = LogisticRegression().fit(alone, kinds)
    skops.io.dump(model, tmp_path / "kinds.skops")
    (tmp_path / "out").rename(tmp_path / "alone")
    run = job(tmp_path, embedding, estimator("kind", tmp_path / "kinds.skops", predict="kind", predict_proba="p"))
    got = run.results().collect()
    assert got.columns == ["kind", "p"]
    assert got["kind"].to_list() == model.predict(alone).tolist()
    np.testing.assert_allclose(got["p"].to_numpy(), model.predict_proba(alone), atol=1e-5)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, dict[str, Any]]:
    """Pictures to read, and three models that were fitted on others."""
    folder = tmp_path_factory.mktemp("digits")
    x, y = load_digits(return_X_y=True)
    models = {
        "linear": LogisticRegression(max_iter=300),
        "counts": MultinomialNB(),
        "bayes": GaussianNB(),
    }
    for name, model in models.items():
        skops.io.dump(model.fit(x[:300], y[:300]), folder / f"{name}.skops")
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x[300:].reshape(-1)), 64)})
    pq.write_table(table, folder / "in.parquet")
    return folder, x[300:], models


@pytest.mark.parametrize("voting", ["hard", "soft"])
@pytest.mark.parametrize("weights", [None, [1, 3, 2]])
def test_three_models_that_vote_equal_the_voting_classifier(
    digits: tuple[Path, np.ndarray, dict[str, Any]], tmp_path: Path, voting: str, weights: list[int] | None
) -> None:
    folder, x, models = digits
    (tmp_path / "in.parquet").symlink_to(folder / "in.parquet")
    by_hand = VotingClassifier(list(models.items()), voting=voting, weights=weights)
    by_hand.estimators_ = list(models.values())
    by_hand.le_ = type(
        "Labels", (), {"inverse_transform": staticmethod(lambda v: v), "transform": staticmethod(lambda v: v)}
    )
    output, method = ("predict", "vote") if voting == "hard" else ("predict_proba", "soft_vote")
    members = [estimator(name, folder / f"{name}.skops", **{output: name}) for name in models]
    answer = "value" if voting == "hard" else "index"
    combine: dict[str, Any] = {"name": "vote", "combine": method, "inputs": list(models), "outputs": {answer: "digit"}}
    if weights is not None:
        combine["weights"] = weights
    got = job(tmp_path, *members, combine).results().collect()["digit"]
    wanted = np.asarray(by_hand.predict(x))
    assert got.cast(pl.Int64).to_list() == wanted.astype(int).tolist()


STACK = """
import numpy as np
import skops.io


class Stack:
    def __init__(self, model):
        self.model = skops.io.load(model)

    def __call__(self, batch):
        members = np.hstack([batch[name] for name in ("linear", "counts", "bayes")])
        return {"digit": self.model.predict(members), "p": self.model.predict_proba(members)}
"""


def test_a_class_of_ones_own_over_three_models_equals_the_stacking_classifier(
    digits: tuple[Path, np.ndarray, dict[str, Any]], tmp_path: Path
) -> None:
    folder, x, models = digits
    (tmp_path / "in.parquet").symlink_to(folder / "in.parquet")
    (tmp_path / "stacking.py").write_text(STACK)
    seen, labels = load_digits(return_X_y=True)
    by_hand = StackingClassifier(list(models.items()), LogisticRegression(max_iter=300), cv="prefit")
    by_hand.fit(seen[:300], labels[:300])
    skops.io.dump(by_hand.final_estimator_, tmp_path / "stack.skops")
    stack = {
        "name": "stack",
        "engine": "python",
        "uri": "stacking:Stack",
        "inputs": {name: f"p_{name}" for name in models},
        "outputs": {"digit": "digit", "p": "p"},
        "options": {"model": str(tmp_path / "stack.skops")},
    }
    members = [estimator(name, folder / f"{name}.skops", predict_proba=f"p_{name}") for name in models]
    got = job(tmp_path, *members, stack).results().select("digit", "p").collect()
    assert got["digit"].to_list() == by_hand.predict(x).tolist()
    np.testing.assert_allclose(got["p"].to_numpy(), by_hand.predict_proba(x), rtol=1e-6)
