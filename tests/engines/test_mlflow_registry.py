"""Models by name out of a real registry of MLflow's, kept in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient
from sklearn.linear_model import LinearRegression

from batchinfer import Job
from batchinfer.engines.checks import check, check_model
from batchinfer.engines.fetched import path_of
from batchinfer.engines.mlflow_folder import read_folder
from batchinfer.engines.registry import bring, identify, open_engine, pin
from batchinfer.errors import FingerprintError, ModelError, StorageError
from batchinfer.job.steps import Step
from tests.lake import Lake, forget

FRAME = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) ** 2})


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/registry")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    return tmp_path / "registry"


def register(slope: float) -> str:
    """A new version of the model `line`; its run."""
    model = LinearRegression().fit(FRAME, FRAME["a"] * slope)
    signature = infer_signature(FRAME, model.predict(FRAME))
    with mlflow.start_run() as run:
        mlflow.sklearn.log_model(
            model,
            name="line",
            signature=signature,
            registered_model_name="line",
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
        )
    return str(run.info.run_id)


def alias(version: int) -> None:
    MlflowClient().set_registered_model_alias("line", "best", str(version))


def step(uri: str, **options: Any) -> Step:
    return Step.model_validate(
        {
            "engine": "mlflow",
            "uri": uri,
            "inputs": {"a": "a", "b": "b"},
            "outputs": {"predict": "y"},
            "options": options,
        }
    )


def pinned_by(uri: str) -> Step:
    """The step as a job has it that trusts what the registry gives now."""
    found = pin(step(uri), {})
    digest = read_folder(path_of(found.uri, "model.uri"), "model.uri").digest()
    return found.model_copy(update={"options": {"allow_pickle": digest}})


def predict(what: Step) -> list[float]:
    engine = open_engine(what)
    engine.load("cpu", "native", 1)
    table = pa.Table.from_pandas(FRAME)
    (column,) = engine.finish(engine.infer(engine.prepare(table).batch(slice(0, 20)))).values()
    return list(column.to_pylist())


def test_a_version_gives_what_pyfunc_gives(registry: Path) -> None:
    register(2.0)
    what = pinned_by("models:/line/1")
    check(what)
    check_model(what)
    assert what.uri.startswith("models:/line/1@sha256:")
    assert predict(what) == list(mlflow.pyfunc.load_model("models:/line/1").predict(FRAME))
    assert np.allclose(predict(what), FRAME["a"] * 2)


def test_an_alias_is_the_version_that_it_stands_for_when_the_job_is_planned(registry: Path) -> None:
    register(2.0)
    register(3.0)
    alias(1)
    first = pinned_by("models:/line@best")
    alias(2)
    second = pinned_by("models:/line@best")
    assert (first.uri.partition("@")[0], second.uri.partition("@")[0]) == ("models:/line/1", "models:/line/2")
    assert identify(first).digest != identify(second).digest
    bring(first, {})
    assert np.allclose(predict(first), FRAME["a"] * 2)
    assert np.allclose(predict(second), FRAME["a"] * 3)
    assert pinned_by("models:/line/latest").uri == second.uri


def test_a_model_of_a_run(registry: Path) -> None:
    run = register(2.0)
    what = pinned_by(f"runs:/{run}/line")
    assert np.allclose(predict(what), FRAME["a"] * 2)
    assert identify(what).files == identify(pinned_by("models:/line/1")).files


def test_planning_again_downloads_nothing_and_another_machine_the_same(registry: Path) -> None:
    register(2.0)
    what = pinned_by("models:/line/1")
    pickle = next(registry.rglob("model.pkl"))
    data = pickle.read_bytes()
    pickle.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # of the same size: no version is written twice
    assert pinned_by("models:/line/1") == what
    forget(Path(os.environ["BATCHINFER_CACHE"]))
    with pytest.raises(ModelError, match=r"^model\.uri: models:/line/1 is not what it was"):
        bring(what, {})
    pickle.write_bytes(data)
    bring(what, {})
    assert np.allclose(predict(what), FRAME["a"] * 2)


def test_what_the_registry_lacks_is_told_by_name(registry: Path) -> None:
    register(2.0)
    for uri in ("models:/line/7", "models:/none/1", "models:/line@worst", "runs:/0/x"):
        with pytest.raises(ModelError, match=rf"^model\.uri: {uri}: .*has no such model.*MLFLOW_TRACKING_URI"):
            pin(step(uri), {})
    for uri in ("models:/a/b/c", "models:/", "runs:/x"):
        with pytest.raises(ModelError, match=rf"^model\.uri: {uri} is not of the form"):
            pin(step(uri), {})


def test_a_registry_that_does_not_answer_is_waited_for_by_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageError, match=r"^model\.uri: models:/line/1"):
        pin(step("models:/line/1"), {})


def test_a_moved_alias_is_a_changed_job_once_its_model_is_trusted(registry: Path, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pandas(FRAME), tmp_path / "in.parquet")

    def run() -> Any:
        trusted = pinned_by("models:/line@best").options
        model = {
            **step("models:/line@best").model_dump(include={"engine", "uri", "inputs"}),
            "outputs": {"predict": "y"},
        }
        return Job(
            version=1,
            name="line",
            input={"path": str(tmp_path / "in.parquet")},
            model={**model, "options": trusted},
            resources={"executor": "inline"},
            output={"path": str(tmp_path / "out")},
        ).run()

    register(2.0)
    register(3.0)
    alias(1)
    assert np.allclose(run().results().collect()["y"], FRAME["a"] * 2)
    assert run().exit_code == 0
    alias(2)
    with pytest.raises(FingerprintError, match=r"files\.model\.pkl"):
        run()


def test_a_folder_in_a_bucket(registry: Path, s3_server: str, tmp_path: Path) -> None:
    register(2.0)
    with Lake(s3_server, tmp_path.name) as lake:
        url = lake.put_folder("line", next(registry.rglob("MLmodel")).parent)
        local = pinned_by("models:/line/1")
        found = pin(step(url, **local.options), lake.storage)
        check_model(found)
    assert identify(found) == identify(local)
    assert predict(found) == predict(local)
