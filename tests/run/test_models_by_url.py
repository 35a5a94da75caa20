"""Whole jobs whose model lies in a bucket."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import Job, Run
from batchinfer.errors import FingerprintError, ModelError
from batchinfer.run.events import Event, Started
from tests.engines.graphs import affine
from tests.lake import KEYS, Lake, forget

ROWS = 4000


@pytest.fixture
def lake(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    for name, value in {
        "ACCESS_KEY_ID": KEYS["key"],
        "SECRET_ACCESS_KEY": KEYS["secret"],
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", str(value))
    with Lake(s3_server, f"{tmp_path.name}-{time.monotonic_ns()}") as made:
        yield made


class Place:
    """A job on a local table with a model of the lake."""

    def __init__(self, folder: Path, lake: Lake) -> None:
        self.folder, self.lake, self.cache = folder, lake, Path(os.environ["BATCHINFER_CACHE"])
        self.x = np.random.default_rng(1).normal(size=(ROWS, 3)).astype("f4")
        pq.write_table(pa.table({name: self.x[:, n] for n, name in enumerate("abc")}), folder / "in.parquet")
        self.url = ""

    def store(self, seed: int) -> int:
        """Store a model, and give its bytes."""
        generator = np.random.default_rng(seed)
        self.weight = generator.normal(size=(3, 1)).astype("f4")
        affine(self.folder / "m.onnx", self.weight, np.zeros(1, "f4"))
        data = (self.folder / "m.onnx").read_bytes()
        self.url = self.lake.put("m.onnx", data)
        return len(data)

    def run(self, listener: Any = None, **sections: Any) -> Run:
        model = {"engine": "onnx", "uri": self.url, "inputs": {"x": ["a", "b", "c"]}, "outputs": {"y": "y"}}
        fields = {
            "version": 1,
            "name": "by-url",
            "input": {"path": str(self.folder / "in.parquet")},
            "model": {**model, "precision": "fp32"},
            "batching": {"shard": 500, "window": 500, "rows": 100},
            "resources": {"executor": "inline"},
            "output": {"path": str(self.folder / "out"), "carry": "none"},
            "storage": {"s3://lake/": {"endpoint_url": self.lake.url}},
        }
        return Job(**{**fields, **sections}).run(listener=listener)

    def check(self, run: Run) -> None:
        assert run.exit_code == 0
        given = run.results().collect()["y"].to_numpy().reshape(-1)
        np.testing.assert_allclose(given, (self.x @ self.weight).reshape(-1), atol=1e-5)


@pytest.fixture
def place(tmp_path: Path, lake: Lake) -> Place:
    return Place(tmp_path, lake)


def test_a_job_fetches_its_model_once_and_the_next_one_not_at_all(place: Place) -> None:
    size = place.store(1)
    place.check(place.run())
    assert place.lake.sent == size
    again = {"path": str(place.folder / "other"), "carry": "none"}
    place.check(place.run(output=again))
    assert place.lake.sent == size


def test_a_model_that_changed_is_another_job(place: Place) -> None:
    place.store(1)
    place.run()
    place.store(2)
    with pytest.raises(FingerprintError, match=r"m\.onnx"):
        place.run()


def test_a_model_that_changed_after_planning_is_refused_by_a_machine_that_lacks_it(place: Place) -> None:
    place.store(1)

    def meanwhile(event: Event) -> None:
        if isinstance(event, Started):
            forget(place.cache)
            place.store(2)

    with pytest.raises(ModelError, match=r"model\.uri: .*m\.onnx is not what it was"):
        place.run(meanwhile)


@pytest.mark.ray
def test_the_workers_of_a_machine_fetch_a_model_once(place: Place) -> None:
    size = place.store(1)
    at_plan = []

    def elsewhere(event: Event) -> None:
        if isinstance(event, Started):
            at_plan.append(place.lake.sent)
            forget(place.cache)

    place.check(place.run(elsewhere, resources={"executor": "ray", "workers": 2, "cpus": 1}))
    assert at_plan == [size]
    assert place.lake.sent == 2 * size
