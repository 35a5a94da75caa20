"""The example jobs of several steps, beside the same computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.jobs.test_examples import JOBS, python, run
from tests.jobs.test_examples import jobs as jobs

UNSEEN = slice(1000, None)
"""The networks were trained on the first 1,000."""


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    python(str(JOBS / "make_digits_models.py"), str(folder))
    return folder


@pytest.fixture
def made(jobs: Path, networks: Path) -> Path:
    (jobs / "generated").symlink_to(networks)
    return jobs


def answers(networks: Path, name: str) -> dict[str, np.ndarray]:
    import torch

    pixels = pl.read_parquet(JOBS / "data/digits.parquet")["pixels"].to_numpy().astype(np.float32)
    with torch.inference_mode():
        given = torch.export.load(networks / f"digits-{name}.pt2").module()(torch.from_numpy(pixels))
    return {key: value.numpy() for key, value in given.items()}


def test_a_cascade_of_digit_models_is_as_good_as_the_big_one_on_a_part_of_the_rows(made: Path, networks: Path) -> None:
    result = run(made / "cascade.yaml")
    assert result["rows"]["succeeded"] == 1437
    frame = pl.read_parquet(made / "out/cascade/data/*.parquet")
    assert frame.columns == ["id", "label", "sure", "digit", "step_used"]
    small, big = answers(networks, "linear"), answers(networks, "wide")
    unsure = frame["sure"].to_numpy() < 0.8
    assert np.allclose(frame["sure"], small["confidence"], atol=1e-5)
    assert (frame["step_used"] == "big").to_list() == unsure.tolist()
    assert result["usage"]["steps"]["big"]["rows"] == unsure.sum()
    assert frame["digit"].to_list() == np.where(unsure, big["digit"], small["digit"]).tolist()
    label = frame["label"].to_numpy()[UNSEEN]
    accuracy, best = ((digit[UNSEEN] == label).mean() for digit in (frame["digit"].to_numpy(), big["digit"]))
    assert unsure[UNSEEN].mean() <= 0.3
    assert accuracy >= best - 0.005


def test_the_threshold_of_a_cascade_is_found_so_that_it_agrees_as_asked(made: Path, networks: Path) -> None:
    result = run(made / "cascade_auto.yaml")
    (big,) = (s for s in result["settings"]["steps"] if s["name"] == "big")
    frame = pl.read_parquet(made / "out/cascade_auto/data/*.parquet")
    assert (frame["step_used"] == "big").equals(frame["sure"] < big["threshold"])
    assert 0 < (frame["step_used"] == "big").mean() < 0.5
    assert (frame["digit"].to_numpy() == answers(networks, "wide")["digit"]).mean() >= 0.98


def test_an_ensemble_votes_as_its_members_do(made: Path, networks: Path) -> None:
    run(made / "ensemble.yaml")
    frame = pl.read_parquet(made / "out/ensemble/data/*.parquet")
    members = [answers(networks, name) for name in ("linear", "narrow", "wide")]
    mean = np.mean([m["probabilities"].astype(np.float64) for m in members], axis=0)
    assert frame["digit"].to_list() == mean.argmax(1).tolist()
    assert np.allclose(frame["probability"], mean.max(1), atol=1e-5)
    assert (frame["votes"] == 3).all()
    digits = np.array([m["digit"] for m in members])
    counts = np.array([np.bincount(row, weights=[1, 2, 2], minlength=10) for row in digits.T])
    assert frame["digit_by_heads"].to_list() == counts.argmax(1).tolist()
    assert np.allclose(frame["agreement"], counts.max(1) / 5)


def test_rules_decide_what_the_model_sees_and_what_its_answer_is_called(jobs: Path) -> None:
    result = run(jobs / "routing.yaml")
    frame = pl.read_parquet(jobs / "out/routing/data/*.parquet")
    given = pl.read_parquet(jobs / "data/speeches.parquet")
    assert frame["id"].to_list() == given["id"].to_list()
    long = given["text"].str.len_chars() >= 80
    assert result["usage"]["steps"]["readability"]["rows"] == long.sum()
    assert (frame["grade"].is_not_null() == long).all()
    assert ((frame["level"] == "too short") == ~long).all()
    assert set(frame["level"]) == {"too short", "plain", "school", "college"}
    assert (frame["century"] == given["year"] // 100 + 1).all()
