"""The mlflow engine beside mlflow.pyfunc called by hand, its registry, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io  # noqa: F401 - as MLflow finds it
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from batchinfer.engines.checks import check, check_columns
from batchinfer.engines.mlflow_folder import mismatches, read_folder
from batchinfer.engines.registry import identify, open_engine, precisions
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.testing.engines import EngineContract

ROWS = 30
_generator = np.random.default_rng(4)
FRAME = pd.DataFrame(
    {
        "size": _generator.normal(size=ROWS),
        "age": np.arange(ROWS, dtype="int64"),
        "city": [("Rome", "Oslo", "Bern")[n % 3] for n in range(ROWS)],
    }
)
NUMBERS = FRAME[["size", "age"]]
KINDS = np.where(FRAME["size"] > 0, "up", "down")
TABLE = pa.table(
    {
        "size": pa.array(FRAME["size"].tolist()),
        "age": pa.array(FRAME["age"].tolist()),
        "city": FRAME["city"].tolist(),
        "small": pa.array(FRAME["age"].tolist(), pa.int8()),
        "v": pa.FixedSizeListArray.from_arrays(pa.array(NUMBERS.to_numpy().astype("f4").reshape(-1)), 2),
    }
)


class Both(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model with two outputs by name, and a parameter."""

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        plus = (params or {}).get("plus", 0)
        return pd.DataFrame(
            {"scaled": model_input["size"] * self.factor + plus, "name": model_input["city"].str.upper()}
        )


BOTH = ModelSignature(
    Schema([ColSpec("double", "size"), ColSpec("string", "city"), ColSpec("long", "age", required=False)]),
    Schema([ColSpec("double", "scaled"), ColSpec("string", "name")]),
    ParamSchema([ParamSpec("plus", "double", 0.0)]),
)


def saved(folder: Path, model: Any, **keys: Any) -> Path:
    """Store a model of scikit-learn's, or a PythonModel, as MLflow does."""
    keys = {"pip_requirements": ["scikit-learn"], **keys}
    if isinstance(model, mlflow.pyfunc.PythonModel):
        mlflow.pyfunc.save_model(folder, python_model=model, **keys)
    else:
        mlflow.sklearn.save_model(model, folder, serialization_format="cloudpickle", **keys)
    return folder


def step(uri: object, inputs: dict[str, Any], outputs: list[str] | None = None, **options: Any) -> Step:
    names = outputs or ["predict"]
    return Step.model_validate(
        {
            "engine": "mlflow",
            "uri": str(uri),
            "inputs": inputs,
            "outputs": {name: name for name in names},
            "options": options,
        }
    )


def trusted(folder: Path, inputs: dict[str, Any], outputs: list[str] | None = None, **options: Any) -> Step:
    return step(folder, inputs, outputs, allow_pickle=read_folder(folder, "model.uri").digest(), **options)


def run(what: Step, table: pa.Table = TABLE) -> dict[str, list[Any]]:
    engine = open_engine(what)
    engine.load("cpu", "native", 1)
    columns = engine.finish(engine.infer(engine.prepare(table).batch(slice(0, len(table)))))
    return {name: column.to_pylist() for name, column in columns.items()}


def forest(folder: Path, **keys: Any) -> Path:
    model = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)).fit(NUMBERS, KINDS)
    return saved(folder, model, signature=infer_signature(NUMBERS, model.predict(NUMBERS)), **keys)


NAMED = {"size": "size", "age": "age"}


class _Contract(EngineContract):
    precision = "native"
    made = 0

    def save(self, folder: Path) -> Path:
        raise NotImplementedError

    def rows(self) -> pa.Table:
        return TABLE.slice(0, 8)

    def change(self) -> None:
        path = self.folder / "model" / "MLmodel"
        path.write_text(f"{path.read_text()}\n# another\n")


class TestFrame(_Contract):
    def build(self) -> Step:
        return trusted(forest(self.folder / "model"), NAMED)


class TestPythonModel(_Contract):
    def build(self) -> Step:
        folder = saved(self.folder / "model", Both(), signature=BOTH)
        return trusted(folder, {"city": "city", "size": "size"}, ["name", "scaled"], params={"plus": 1.0})


class TestTensor(_Contract):
    def build(self) -> Step:
        x = NUMBERS.to_numpy()
        model = LinearRegression().fit(x, x[:, 0])
        folder = saved(self.folder / "model", model, signature=infer_signature(x, model.predict(x)))
        return trusted(folder, {"x": ["size", "small"]})


def by_hand(folder: Path, data: Any, params: Any = None) -> Any:
    return mlflow.pyfunc.load_model(str(folder)).predict(data, params=params)


def test_a_frame_of_named_columns_gives_what_pyfunc_gives(tmp_path: Path) -> None:
    folder = forest(tmp_path / "m")
    assert run(trusted(folder, NAMED))["predict"] == list(by_hand(folder, NUMBERS))
    assert run(trusted(folder, {"age": "small", "size": "size"}))["predict"] == list(by_hand(folder, NUMBERS))


def test_named_outputs_and_parameters_are_those_of_the_signature(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", Both(), signature=BOTH)
    given = run(trusted(folder, {"city": "city", "size": "size"}, ["name", "scaled"], params={"plus": 3.0}))
    expected = by_hand(folder, FRAME[["size", "city"]], {"plus": 3.0})
    assert given == {"name": expected["name"].tolist(), "scaled": expected["scaled"].tolist()}
    plain = run(trusted(folder, {"city": "city", "size": "size"}, ["scaled"]))
    assert plain["scaled"] == by_hand(folder, FRAME[["size", "city"]])["scaled"].tolist()
    assert plain["scaled"] != given["scaled"]


def test_an_array_is_made_of_columns_or_lists_as_the_signature_has_it(tmp_path: Path) -> None:
    x = NUMBERS.to_numpy()
    model = LogisticRegression().fit(x, KINDS)
    folder = saved(tmp_path / "m", model, signature=infer_signature(x, model.predict(x)))
    expected = list(by_hand(folder, x))
    assert run(trusted(folder, {"x": ["size", "small"]}))["predict"] == expected
    narrow = list(by_hand(folder, x.astype("f4").astype("f8")))
    assert run(trusted(folder, {"x": "v"}))["predict"] == narrow
    with pytest.raises(ModelError, match=r"inputs\.x: .*asks for 2 values a row.*3 are given"):
        run(trusted(folder, {"x": ["size", "small", "age"]}))


def test_arrays_by_name(tmp_path: Path) -> None:
    class Sum(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return {"total": model_input["left"].sum(1) + model_input["right"]}

    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("f4"), (-1, 2), "left"), TensorSpec(np.dtype("f8"), (-1,), "right")])
    )
    folder = saved(tmp_path / "m", Sum(), signature=signature)
    arrays = {"left": NUMBERS.to_numpy().astype("f4"), "right": FRAME["size"].to_numpy()}
    given = run(trusted(folder, {"right": "size", "left": "v"}, ["total"]))
    assert np.allclose(given["total"], by_hand(folder, arrays)["total"])


def test_a_model_without_a_signature_gets_the_inputs_as_they_are_named(tmp_path: Path) -> None:
    model = LinearRegression().fit(NUMBERS, FRAME["size"])
    folder = saved(tmp_path / "m", model)
    assert np.allclose(run(trusted(folder, NAMED))["predict"], by_hand(folder, NUMBERS))


def test_a_series_with_a_name_in_the_signature_is_that_output(tmp_path: Path) -> None:
    model = LinearRegression().fit(NUMBERS, FRAME["size"])
    folder = saved(tmp_path / "m", model, signature=infer_signature(NUMBERS, FRAME["size"].rename("target")))
    assert np.allclose(run(trusted(folder, NAMED, ["target"]))["target"], model.predict(NUMBERS))


def test_probabilities_are_vectors(tmp_path: Path) -> None:
    model = LogisticRegression().fit(NUMBERS, KINDS)
    folder = saved(tmp_path / "m", model, pyfunc_predict_fn="predict_proba")
    assert np.allclose(run(trusted(folder, NAMED))["predict"], by_hand(folder, NUMBERS))


@pytest.mark.parametrize(
    ("inputs", "outputs", "options", "message"),
    [
        ({"size": "size"}, None, {}, r"model\.inputs\.age: is missing.*\(long\)"),
        ({**NAMED, "ages": "age"}, None, {}, r"model\.inputs\.ages: is none of the model's inputs; did you mean age\?"),
        ({"size": ["size"], "age": "age"}, None, {}, r"model\.inputs\.size: is one column"),
        (NAMED, ["prediction"], {}, r"model\.outputs\.prediction: is none .* known: predict"),
        (NAMED, None, {"params": {"plus": 1}}, r"model\.options\.params\.plus: is none .*known: none"),
        (NAMED, None, {"nulls": "keep"}, r"model\.options\.nulls"),
        (NAMED, None, {"allow_pickle": "yes"}, r"model\.options\.allow_pickle: .*SHA-256"),
        (
            NAMED,
            None,
            {"allow_pickle": None},
            r"model\.options\.allow_pickle: .*pin it: options\.allow_pickle: [0-9a-f]{64}",
        ),
        (NAMED, None, {"allow_pickle": "0" * 64}, r"model\.options\.allow_pickle: .* is pinned"),
    ],
)
def test_what_the_signature_does_not_have_is_found_when_the_job_is_planned(
    tmp_path: Path, inputs: dict[str, Any], outputs: list[str] | None, options: dict[str, Any], message: str
) -> None:
    folder = forest(tmp_path / "m")
    what = trusted(folder, inputs, outputs)
    both = {name: value for name, value in {**what.options, **options}.items() if value is not None}
    with pytest.raises(ModelError, match=message):
        check(what.model_copy(update={"options": both}))


@pytest.mark.parametrize(
    ("kind", "wanted", "fits"),
    [
        (pa.float64(), "double", True),
        (pa.float32(), "double", True),
        (pa.int32(), "double", True),
        (pa.int64(), "double", False),
        (pa.decimal128(9, 2), "double", True),
        (pa.float64(), "float", False),
        (pa.int8(), "float", False),
        (pa.uint32(), "long", True),
        (pa.uint64(), "long", False),
        (pa.int64(), "integer", False),
        (pa.float64(), "long", False),
        (pa.string(), "double", False),
        (pa.dictionary(pa.int8(), pa.string()), "string", True),
        (pa.large_string(), "string", True),
        (pa.binary(), "string", False),
        (pa.bool_(), "boolean", True),
        (pa.int8(), "boolean", False),
        (pa.date32(), "datetime", True),
        (pa.timestamp("us"), "datetime", True),
        (pa.timestamp("us", "UTC"), "datetime", False),
        (pa.binary(), "binary", True),
        (pa.null(), "double", True),
    ],
)
def test_types_of_columns_are_held_against_the_signature(
    tmp_path: Path, kind: pa.DataType, wanted: str, fits: bool
) -> None:
    folder = saved(tmp_path / "m", Both(), signature=ModelSignature(Schema([ColSpec(wanted, "x")])))
    what, schema = trusted(folder, {"x": "c"}), pa.schema([("c", kind)])
    if fits:
        check_columns(what, schema)
        return
    with pytest.raises(
        ModelError, match=rf"^model\.inputs\.x: the model's signature asks for {wanted}, and the column c is"
    ):
        check_columns(what, schema)
    with pytest.raises(ModelError, match=r"inputs\.x"):
        open_engine(what).prepare(pa.table({"c": pa.nulls(1, kind)}))


def test_a_column_that_another_step_computes_is_looked_at_when_it_comes(tmp_path: Path) -> None:
    folder = forest(tmp_path / "m")
    check_columns(trusted(folder, {"size": "computed", "age": "age"}), pa.schema([("age", pa.int64())]))


def test_nulls_are_refused_or_are_nan(tmp_path: Path) -> None:
    class Nulls(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input["size"].isna().to_numpy()

    signature = ModelSignature(Schema([ColSpec("double", "size"), ColSpec("long", "age")]))
    folder = saved(tmp_path / "m", Nulls(), signature=signature)
    table = pa.table({"size": pa.array([1.0, None]), "age": pa.array([1, 2])})
    with pytest.raises(TypeError, match="input size is null"):
        run(trusted(folder, NAMED), table)
    assert run(trusted(folder, NAMED, nulls="nan"), table)["predict"] == [False, True]
    holes = pa.table({"size": pa.array([1.0]), "age": pa.array([None], pa.int64())})
    with pytest.raises(TypeError, match="input age is null"):
        run(trusted(folder, NAMED, nulls="nan"), holes)


@pytest.mark.parametrize("name", ["model.pkl", "MLmodel", "code/helper.py", "new.py"])
def test_a_folder_that_was_changed_after_planning_is_not_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "helper.py").write_text("X = 1\n")
    folder = forest(tmp_path / "m", code_paths=[str(tmp_path / "code")])
    what = trusted(folder, NAMED)
    check(what)
    assert (folder / "code/code/helper.py").is_file()
    target = folder / name.replace("code/", "code/code/")
    target.write_bytes((target.read_bytes() if target.exists() else b"") + b"\n")
    with pytest.raises(ModelError, match=r"options\.allow_pickle: .*is pinned"):
        open_engine(what).load("cpu", "native", 1)


def test_what_is_installed_otherwise_than_the_model_was_made_with_is_reported(tmp_path: Path) -> None:
    wanted = ["scikit-learn==0.1", "no-such-thing>=1", "numpy", "pandas==9; python_version < '3'", "mlflow>=1"]
    folder = forest(tmp_path / "m", pip_requirements=wanted)
    told = open_engine(trusted(folder, NAMED)).load("cpu", "native", 1)
    differs = told.applied["differs_from_where_it_was_made"]
    assert [each.partition(":")[0] for each in differs] == ["scikit-learn==0.1", "no-such-thing>=1"]
    assert "not installed" in differs[1]
    assert mismatches(read_folder(folder, "model.uri"), "3.1.0")[-1].endswith("3.1.0 runs it")
    fine = forest(tmp_path / "fine")
    assert open_engine(trusted(fine, NAMED)).load("cpu", "native", 1).applied == {}
    assert {"scikit-learn", "pandas"} <= set(identify(trusted(folder, NAMED)).packages)


def test_a_model_whose_module_is_missing_is_told_with_what_it_was_made_with(tmp_path: Path) -> None:
    folder = forest(tmp_path / "m", pip_requirements=["nowhere-found==1"])
    (folder / "MLmodel").write_text(
        (folder / "MLmodel").read_text().replace("loader_module: mlflow.sklearn", "loader_module: nowhere_found")
    )
    with pytest.raises(ModelError, match=r"model\.uri: .*ModuleNotFoundError.*nowhere-found==1: not installed"):
        open_engine(trusted(folder, NAMED)).load("cpu", "native", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no file MLmodel"),
        ("flavors: [", "can't be understood"),
        ("flavors: {sklearn: {}}", "has no flavor python_function, by which models are called, but sklearn"),
        ("flavors: {python_function: {}}\nsignature: {inputs: 'no json'}", "can't be understood"),
        ("- 1", "can't be understood"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    (tmp_path / "m").mkdir()
    if text is not None:
        (tmp_path / "m/MLmodel").write_text(text)
    with pytest.raises(ModelError, match=rf"^model\.uri: .*{message}"):
        check(step(tmp_path / "m", NAMED))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"precision": "int8"}, "runs a model as it is"),
        ({"task": "embedding"}, "task: embedding is for the transformers engine"),
        ({"input_format": "arrow"}, "is for the python engine"),
        ({"uri": "/no/where"}, "there is no folder /no/where"),
        ({"engine": "onnx", "uri": "models:/a/1", "options": {}}, "models:/a/1 is for the mlflow engine"),
    ],
)
def test_keys_that_do_not_go_with_the_engine_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    what = trusted(forest(tmp_path / "m"), NAMED)
    with pytest.raises(ModelError, match=message):
        check(what.model_copy(update=keys))


def test_it_has_one_precision(tmp_path: Path) -> None:
    assert precisions(trusted(forest(tmp_path / "m"), NAMED), "cpu") == ("native",)
