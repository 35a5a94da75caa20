"""The sklearn engine beside scikit-learn called by hand, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import skops.io
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_info

from batchinfer.engines.checks import check
from batchinfer.engines.protocol import Engine
from batchinfer.engines.registry import identify, open_engine, precisions
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.testing.engines import EngineContract

_generator = np.random.default_rng(3)
ROWS = 40
NUMBERS = _generator.normal(size=(ROWS, 3)).astype(np.float32)
KINDS = np.where(NUMBERS.sum(1) > 0.5, "high", np.where(NUMBERS.sum(1) < -0.5, "low", "middle"))
CITIES = [("Rome", "Oslo", "Bern")[n % 3] for n in range(ROWS)]
TEXTS = [f"{('good', 'bad', 'plain')[n % 3]} soup number {n}" for n in range(ROWS)]
TABLE = pa.table(
    {
        **{name: NUMBERS[:, n] for n, name in enumerate("abc")},
        "v": pa.FixedSizeListArray.from_arrays(pa.array(NUMBERS.reshape(-1)), 3),
        "city": CITIES,
        "text": TEXTS,
        "flag": [n % 2 == 0 for n in range(ROWS)],
    }
)
FRAME = pl.from_arrow(TABLE.select(["a", "city", "flag"]))


def kept(model: Any, path: Path) -> dict[str, Any]:
    """Store a model, and give the keys of a step that loads it."""
    if path.suffix == ".skops":
        skops.io.dump(model, path)
        return {"uri": str(path)}
    if path.suffix == ".joblib":
        joblib.dump(model, path)
    else:
        path.write_bytes(pickle.dumps(model))
    return {"uri": str(path), "options": {"allow_pickle": hashlib.sha256(path.read_bytes()).hexdigest()}}


def step(keys: dict[str, Any], inputs: dict[str, Any], outputs: Sequence[str] = ("predict",), **options: Any) -> Step:
    keys = {**keys, "options": {**keys.get("options", {}), **options}}
    return Step.model_validate(
        {"engine": "sklearn", "inputs": inputs, "outputs": {name: name for name in outputs}, **keys}
    )


def loaded(what: Step, threads: int = 1) -> Engine:
    engine = open_engine(what)
    engine.load("cpu", "native", threads)
    return engine


def run(what: Step, table: pa.Table = TABLE) -> dict[str, list[Any]]:
    engine = loaded(what)
    columns = engine.finish(engine.infer(engine.prepare(table).batch(slice(0, len(table)))))
    return {name: column.to_pylist() for name, column in columns.items()}


def named() -> Any:
    encoder = make_column_transformer((OneHotEncoder(), ["city"]), (StandardScaler(), ["a"]), remainder="passthrough")
    return make_pipeline(encoder, LogisticRegression()).fit(FRAME, KINDS)


class _Contract(EngineContract):
    precision = "native"
    tolerance = 1e-6
    name = "model.joblib"

    def model(self, shift: float) -> Any:
        raise NotImplementedError

    def keep(self, shift: float = 0.0) -> dict[str, Any]:
        return kept(self.model(shift), self.folder / self.name)

    def rows(self) -> pa.Table:
        return TABLE.slice(0, 7)

    def change(self) -> None:
        self.keep(1.0)


class TestMatrix(_Contract):
    def model(self, shift: float) -> Any:
        return LogisticRegression().fit(NUMBERS + shift, KINDS)

    def build(self) -> Step:
        return step(self.keep(), {"x": ["a", "b", "c"]}, ["predict", "predict_proba", "decision_function"])


class TestNamedFeatures(_Contract):
    name = "model.skops"

    def model(self, shift: float) -> Any:
        made = named()
        made[-1].intercept_ += shift
        return made

    def build(self) -> Step:
        return step(self.keep(), {"flag": "flag", "a": "a", "city": "city"}, ["predict", "predict_proba"])


class TestTexts(_Contract):
    name = "model.pkl"

    def model(self, shift: float) -> Any:
        return make_pipeline(TfidfVectorizer(), LinearSVC(C=1 + shift)).fit(TEXTS, CITIES)

    def build(self) -> Step:
        return step(self.keep(), {"text": "text"}, ["predict", "decision_function"])


@pytest.mark.parametrize("inputs", [{"x": ["a", "b", "c"]}, {"x": "v"}, {"one": "a", "rest": ["b", "c"]}])
def test_numbers_become_the_matrix_that_the_estimator_takes(tmp_path: Path, inputs: dict[str, Any]) -> None:
    forest = RandomForestClassifier(20, random_state=0).fit(NUMBERS, KINDS)
    given = run(step(kept(forest, tmp_path / "m.joblib"), inputs, ["predict", "predict_proba"]))
    assert given["predict"] == forest.predict(NUMBERS).tolist()
    assert given["predict_proba"] == forest.predict_proba(NUMBERS).tolist()


def test_inputs_named_as_the_features_come_in_the_estimators_order_whatever_that_of_the_job(tmp_path: Path) -> None:
    model = named()
    what = step(kept(model, tmp_path / "m.skops"), {"flag": "flag", "city": "city", "a": "a"}, ["predict_proba"])
    assert run(what)["predict_proba"] == model.predict_proba(FRAME).tolist()
    renamed = TABLE.rename_columns({"city": "town"})
    what = step(kept(model, tmp_path / "m.skops"), {"flag": "flag", "city": "town", "a": "a"}, ["predict_proba"])
    assert run(what, renamed)["predict_proba"] == model.predict_proba(FRAME).tolist()


def test_a_frames_features_may_be_given_by_order(tmp_path: Path) -> None:
    model = LinearRegression().fit(pl.DataFrame(NUMBERS, schema=["p", "q", "r"]), NUMBERS[:, 0])
    given = run(step(kept(model, tmp_path / "m.skops"), {"x": ["a", "b", "c"]}))["predict"]
    assert np.allclose(given, NUMBERS[:, 0], atol=1e-5)


def test_transformers_and_clusters_give_vectors_and_numbers(tmp_path: Path) -> None:
    clusters = KMeans(2, random_state=0).fit(NUMBERS)
    engine = loaded(step(kept(clusters, tmp_path / "m.skops"), {"x": "v"}, ["predict", "transform"]))
    columns = engine.finish(engine.infer(engine.prepare(TABLE).batch(slice(0, ROWS))))
    assert columns["transform"].type == pa.list_(pa.float32(), 2)
    assert np.allclose(columns["transform"].to_pylist(), clusters.transform(NUMBERS))
    assert columns["predict"].to_pylist() == clusters.predict(NUMBERS).tolist()


def test_nulls_are_refused_or_are_nan_to_an_estimator_that_takes_them(tmp_path: Path) -> None:
    holes = np.where(NUMBERS > 1, np.nan, NUMBERS)
    model = HistGradientBoostingRegressor(max_iter=5).fit(holes, NUMBERS[:, 0])
    keys = kept(model, tmp_path / "m.joblib")
    columns = {name: pa.array(holes[:, n], from_pandas=True) for n, name in enumerate("abc")}
    table = pa.table(columns)
    assert table["a"].null_count
    with pytest.raises(TypeError, match="input x is null"):
        run(step(keys, {"x": ["a", "b", "c"]}), table)
    given = run(step(keys, {"x": ["a", "b", "c"]}, nulls="nan"), table)
    assert given["predict"] == model.predict(holes).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"allow_pickle: .*m\.joblib is a pickle.*pin it: options\.allow_pickle: [0-9a-f]{64}"),
        ({"allow_pickle": "0" * 64}, "has the SHA-256 .* is pinned"),
        ({"allow_pickle": "yes"}, "write its SHA-256"),
        ({"trusted": ["a.B"]}, "goes with a .skops file"),
        ({"nulls": "drop"}, "nulls"),
    ],
)
def test_a_pickle_is_loaded_only_as_it_was_pinned(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    what = step({"uri": kept(KMeans(2).fit(NUMBERS), tmp_path / "m.joblib")["uri"]}, {"x": "v"}, **options)
    with pytest.raises(ModelError, match=message):
        check(what)


def test_a_pickle_that_was_exchanged_after_planning_is_not_loaded(tmp_path: Path) -> None:
    what = step(kept(KMeans(2).fit(NUMBERS), tmp_path / "m.joblib"), {"x": "v"})
    check(what)
    joblib.dump(KMeans(3).fit(NUMBERS), tmp_path / "m.joblib")
    with pytest.raises(ModelError, match="has the SHA-256"):
        loaded(what)


class Doubled(TransformerMixin, BaseEstimator):
    """What no library brings."""

    def fit(self, features: Any, target: Any = None) -> Doubled:
        return self

    def transform(self, features: Any) -> Any:
        return features * 2


def test_types_that_a_skops_file_brings_are_trusted_by_name(tmp_path: Path) -> None:
    keys = kept(Doubled(), tmp_path / "m.skops")
    kind = f"{__name__}.Doubled"
    what = step(keys, {"x": "v"}, ["transform"])
    check(what)
    with pytest.raises(ModelError, match=rf"options\.trusted: .*\[{kind}\]"):
        loaded(what)
    given = run(step(keys, {"x": "v"}, ["transform"], trusted=[kind]))
    assert np.array_equal(given["transform"], NUMBERS * 2)


@pytest.mark.parametrize(
    ("uri", "outputs", "keys", "message"),
    [
        ("m.onnx", ["predict"], {}, "loads .skops, .joblib, .pkl, .pickle files"),
        ("none.skops", ["predict"], {}, "there is no file"),
        ("m.skops", ["predicted"], {}, "outputs.predicted: is no method.*did you mean predict"),
        ("m.skops", ["predict"], {"precision": "int8"}, "runs a model as it is"),
        ("m.skops", ["predict"], {"task": "embedding"}, "task: embedding is for the transformers engine"),
        ("m.skops", ["predict"], {"input_format": "arrow"}, "is for the python engine"),
        ("m.skops", ["predict"], {"options": {"allow_pickle": "0" * 64}}, "is no pickle: remove it"),
    ],
)
def test_what_a_step_may_not_ask_for_is_found_when_the_job_is_planned(
    tmp_path: Path, uri: str, outputs: list[str], keys: dict[str, Any], message: str
) -> None:
    kept(KMeans(2).fit(NUMBERS), tmp_path / "m.skops")
    with pytest.raises(ModelError, match=message):
        check(step({"uri": str(tmp_path / uri), **keys}, {"x": "v"}, outputs))


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"a": "a", "city": "city", "flags": "flag"}, ["predict"], "inputs.flags: .*without it; did you mean flag"),
        ({"a": "a", "city": "city"}, ["predict"], "was fitted with flag too"),
        ({"a": "a", "city": "city", "flag": "v"}, ["predict"], "inputs.flag: is a feature by name"),
        ({"a": "a", "city": "city", "flag": "flag"}, ["transform"], "Pipeline has no such method; .*predict_proba"),
        ({"x": ["a", "city", "flag"]}, ["predict"], "one column of texts: fit it on a frame"),
        ({"x": ["a", "flag"]}, ["predict"], "give 2 features, and .* was fitted with 3"),
    ],
)
def test_inputs_and_outputs_that_the_estimator_does_not_have_are_named(
    tmp_path: Path, inputs: dict[str, Any], outputs: list[str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        run(step(kept(named(), tmp_path / "m.skops"), inputs, outputs))


def test_what_is_no_column_is_refused(tmp_path: Path) -> None:
    words = TfidfVectorizer().fit(TEXTS)
    with pytest.raises(ModelError, match=r"outputs\.transform: gives a sparse matrix"):
        run(step(kept(words, tmp_path / "m.skops"), {"text": "text"}, ["transform"]))
    two = KNeighborsClassifier().fit(NUMBERS, np.array([CITIES, KINDS]).T)
    with pytest.raises(ModelError, match="one array for each of its targets"):
        run(step(kept(two, tmp_path / "m.joblib"), {"x": "v"}, ["predict_proba"]))
    dates = pa.table({"v": pa.array([0], pa.timestamp("s"))})
    with pytest.raises(ModelError, match=r"takes columns of numbers, .* not timestamp"):
        run(step(kept(two, tmp_path / "m.joblib"), {"x": "v"}), dates)


def test_a_damaged_file_and_a_module_that_is_not_installed_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x04cnot_installed_here\nModel\n.")
    pinned = {"uri": str(path), "options": {"allow_pickle": hashlib.sha256(path.read_bytes()).hexdigest()}}
    with pytest.raises(ModelError, match="needs the module not_installed_here: install it"):
        loaded(step(pinned, {"x": "v"}))
    (tmp_path / "m.skops").write_bytes(b"no zip")
    with pytest.raises(ModelError, match=r"m.skops can't be read: BadZipFile"):
        loaded(step({"uri": str(tmp_path / "m.skops")}, {"x": "v"}))


def test_calls_keep_to_the_workers_threads(tmp_path: Path) -> None:
    seen: list[Any] = []
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(4, n_jobs=-1)).fit(NUMBERS, KINDS)
    engine = loaded(step(kept(forest, tmp_path / "m.joblib"), {"x": "v"}), threads=2)
    model = engine._model  # type: ignore[attr-defined]
    assert model[-1].n_jobs == 2
    predict = model.predict
    model.predict = lambda features: (seen.extend(threadpool_info()), predict(features))[1]
    engine.infer(engine.prepare(TABLE).batch(slice(0, 4)))
    assert seen
    assert all(pool["num_threads"] <= 2 for pool in seen)
    single = loaded(step(kept(forest, tmp_path / "m.joblib"), {"x": "v"}), threads=1)
    model = single._model  # type: ignore[attr-defined]
    seen.clear()
    predict_alone = model.predict
    model.predict = lambda features: (seen.extend(threadpool_info()), predict_alone(features))[1]
    single.infer(single.prepare(TABLE).batch(slice(0, 4)))
    assert {pool["num_threads"] for pool in seen} == {1}


def test_an_estimator_of_another_version_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    model = KMeans(2).fit(NUMBERS)
    made = io.BytesIO()
    pickle.Pickler(made).dump(model)
    import sklearn

    version = sklearn.__version__.encode()
    path.write_bytes(made.getvalue().replace(version, b"9" * len(version)))
    keys = {"uri": str(path), "options": {"allow_pickle": hashlib.sha256(path.read_bytes()).hexdigest()}}
    told = open_engine(step(keys, {"x": "v"})).load("cpu", "native", 1)
    assert told.applied == {"stored_by_scikit_learn": "9" * len(version)}
    assert not told.side_by_side


def test_the_identity_has_the_libraries_that_run_it_and_it_has_no_other_precision(tmp_path: Path) -> None:
    what = step(kept(KMeans(2).fit(NUMBERS), tmp_path / "m.skops"), {"x": "v"})
    assert set(identify(what).packages) == {"scikit-learn", "numpy", "scipy", "skops"}
    assert precisions(what, "cpu") == ("native",)
