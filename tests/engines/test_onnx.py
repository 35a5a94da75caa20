"""The onnx engine on columns, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto

from batchinfer.engines import registry
from batchinfer.engines.checks import check
from batchinfer.engines.onnx_file import structure
from batchinfer.engines.protocol import Engine
from batchinfer.engines.registry import device_for, identify, open_engine, precisions
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.steps import Step
from batchinfer.testing.engines import EngineContract
from tests.engines.graphs import FLOAT, affine, one

_generator = np.random.default_rng(5)
WEIGHT = _generator.normal(size=(3, 4)).astype(np.float32)
BIAS = _generator.normal(size=4).astype(np.float32)
TABLE = pa.table(
    {
        **{name: pa.array(_generator.normal(size=9), pa.float64()) for name in "abc"},
        "v": pa.array(_generator.normal(size=(9, 3)).astype(np.float32).tolist(), pa.list_(pa.float32(), 3)),
        "six": pa.array(np.arange(54, dtype=np.float32).reshape(9, 6).tolist(), pa.list_(pa.float32(), 6)),
        "n": pa.array(range(9), pa.int64()),
        "flag": [row % 2 == 0 for row in range(9)],
        "text": ["t"] * 9,
    }
)


def step(path: Path, inputs: dict[str, Any], outputs: dict[str, Any], **keys: Any) -> Step:
    return Step.model_validate({"engine": "onnx", "uri": str(path), "inputs": inputs, "outputs": outputs, **keys})


def loaded(what: Step, precision: str = "fp32") -> Engine:
    engine = open_engine(what)
    engine.load("cpu", precision, 1)
    return engine


def run(engine: Engine, table: pa.Table = TABLE, rows: Any = None) -> dict[str, pa.Array]:
    rows = slice(0, len(table)) if rows is None else rows
    return dict(engine.finish(engine.infer(engine.prepare(table).batch(rows))))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BATCHINFER_CACHE", str(folder))
    return folder


class TestColumns(EngineContract):
    def build(self) -> Step:
        affine(self.folder / "net.onnx", WEIGHT, BIAS)
        return step(self.folder / "net.onnx", {"x": ["a", "b", "c"]}, {"y": "h", "best": "k"})

    def rows(self) -> pa.Table:
        return TABLE

    def change(self) -> None:
        affine(self.folder / "net.onnx", WEIGHT, BIAS + 1)


class TestInt8(TestColumns):
    precision = "int8"
    tolerance = 0.1  # the scale of activations is that of the whole batch


def test_the_graph_computes_what_numpy_computes(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    x = np.stack([TABLE[name].to_numpy() for name in "abc"], axis=1).astype(np.float32)
    expected = x @ WEIGHT + BIAS
    columns = run(loaded(step(tmp_path / "net.onnx", {"x": ["a", "b", "c"]}, {"y": "h", "best": "k"})))
    assert columns["y"].type == pa.list_(pa.float32(), 4)
    assert columns["best"].type == pa.int64()
    np.testing.assert_allclose(columns["y"].to_pylist(), expected, atol=1e-5)
    assert columns["best"].to_pylist() == expected.argmax(1).tolist()


def test_only_the_outputs_that_the_step_names_are_computed(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    assert list(run(loaded(step(tmp_path / "net.onnx", {"x": "v"}, {"best": "k"})))) == ["best"]


def test_a_flat_list_takes_the_shape_that_the_graph_wants(tmp_path: Path) -> None:
    one(tmp_path / "net.onnx", "Transpose", (FLOAT, ["n", 2, 3]), (FLOAT, ["n", 3, 2]), perm=[0, 2, 1])
    (first, *_) = run(loaded(step(tmp_path / "net.onnx", {"x": "six"}, {"y": "y"})))["y"].to_pylist()
    assert first == [[0, 3], [1, 4], [2, 5]]


def test_a_single_column_may_be_a_matrix_of_one_column_and_comes_back_as_numbers(tmp_path: Path) -> None:
    one(tmp_path / "net.onnx", "Abs", (FLOAT, ["n", 1]), (FLOAT, ["n", 1]))
    column = run(loaded(step(tmp_path / "net.onnx", {"x": "a"}, {"y": "y"})))["y"]
    assert column.type == pa.float32()
    np.testing.assert_allclose(column.to_numpy(), np.abs(TABLE["a"].to_numpy()).astype(np.float32))


def test_integers_that_the_graph_cannot_hold_are_one_rows_fault(tmp_path: Path) -> None:
    one(tmp_path / "net.onnx", "Abs", (TensorProto.INT8, ["n"]), (TensorProto.INT8, ["n"]))
    engine = loaded(step(tmp_path / "net.onnx", {"x": "n"}, {"y": "y"}))
    assert run(engine)["y"].to_pylist() == list(range(9))
    with pytest.raises(ValueError, match="input x has a value that int8 can't hold"):
        engine.prepare(pa.table({"n": [1, 300]}))


def test_a_column_that_cannot_be_the_input_is_the_jobs_fault(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    one(tmp_path / "whole.onnx", "Abs", (TensorProto.INT64, ["n"]), (TensorProto.INT64, ["n"]))
    for file, column, message in (
        ("net.onnx", "text", r"model\.inputs\.x: the onnx engine takes columns of numbers.*not string"),
        ("net.onnx", "six", r"model\.inputs\.x: the model takes x: tensor\(float\) of shape \(\?, 3\).*lists of 6"),
        ("net.onnx", "a", r"shape \(\?, 3\), and the column holds single numbers"),
        ("whole.onnx", "a", r"the model takes x: tensor\(int64\).*the column is float64: cast"),
    ):
        with pytest.raises(ModelError, match=message):
            run(loaded(step(tmp_path / file, {"x": column}, {"y": "y"})))


def test_names_that_the_graph_lacks_are_refused_with_those_that_it_has(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    with pytest.raises(ModelError, match=r"model\.inputs: .* takes x: tensor\(float\) of shape \(\?, 3\), not X"):
        loaded(step(tmp_path / "net.onnx", {"X": "v"}, {"y": "y"}))
    with pytest.raises(ModelError, match=r"model\.outputs\.bets: .*did you mean best\? known: best, y"):
        loaded(step(tmp_path / "net.onnx", {"x": "v"}, {"bets": "y"}))
    with pytest.raises(ModelError, match=r"model\.inputs\.x: .* takes x.*and 2 columns are named"):
        loaded(step(tmp_path / "net.onnx", {"x": ["a", "b"]}, {"y": "y"}))


def test_a_graph_of_one_batch_size_is_refused_with_what_to_do(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS, rows=8)
    with pytest.raises(ModelError, match=r"model\.uri: .*batches of 8 only \(input x.*first axis of any size"):
        loaded(step(tmp_path / "net.onnx", {"x": "v"}, {"y": "y"}))


def test_an_output_that_is_not_one_value_per_row_is_the_models_fault(tmp_path: Path) -> None:
    one(tmp_path / "net.onnx", "ReduceSum", (FLOAT, ["n"]), (FLOAT, [1]), keepdims=1)
    with pytest.raises(ModelError, match=r"model\.outputs\.y: the model gave 1 values for 9 rows"):
        run(loaded(step(tmp_path / "net.onnx", {"x": "a"}, {"y": "y"})))


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08\x08", b"\xff" * 40])
def test_a_file_that_is_no_model_is_refused_when_the_job_is_planned(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.uri: .*net\.onnx is no ONNX file"):
        check(step(tmp_path / "net.onnx", {"x": "v"}, {"y": "y"}))


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    data = (tmp_path / "net.onnx").read_bytes()
    (tmp_path / "net.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="is no ONNX file: it is cut off"):
        check(step(tmp_path / "net.onnx", {"x": "v"}, {"y": "y"}))


def test_weights_beside_the_file_are_part_of_the_model(tmp_path: Path) -> None:
    external = {"save_as_external_data": True, "location": "net.data", "size_threshold": 0}
    affine(tmp_path / "net.onnx", WEIGHT, BIAS, **external)
    what = step(tmp_path / "net.onnx", {"x": "v"}, {"y": "y"})
    before = identify(what)
    assert set(before.files) == {"net.onnx", "net.data"}
    whole = run(loaded(what))["y"]
    (tmp_path / "net.data").write_bytes(bytes(len((tmp_path / "net.data").read_bytes())))
    assert identify(what).digest != before.digest
    assert run(loaded(what))["y"] != whole
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match=r"weights in .*net\.data, which is missing"):
        check(what)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS, save_as_external_data=True, location="net.data", size_threshold=0)
    data = (tmp_path / "net.onnx").read_bytes()
    (tmp_path / "net.onnx").write_bytes(data.replace(b"net.data", b"../../da"))
    with pytest.raises(ModelError, match=r"weights in \.\./\.\./da, outside its folder"):
        check(step(tmp_path / "net.onnx", {"x": "v"}, {"y": "y"}))


def test_the_reader_sees_what_the_library_of_onnx_sees(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    found = structure(tmp_path / "net.onnx", "model.uri")
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert found.operators == {node.op_type for node in graph.node}
    assert found.types == {tensor.data_type for tensor in graph.initializer}


def test_int8_is_built_once_kept_and_built_again_when_it_is_damaged(tmp_path: Path, cache: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    what = step(tmp_path / "net.onnx", {"x": "v"}, {"y": "y"})
    exact, rough = (np.array(run(loaded(what, p))["y"].to_pylist()) for p in ("fp32", "int8"))
    assert 0 < np.abs(exact - rough).max() < 0.1
    (kept,) = cache.glob("artefacts/*/model.onnx")
    built = kept.stat().st_mtime_ns
    assert "MatMulInteger" in {node.op_type for node in onnx.load(kept).graph.node}
    loaded(what, "int8")
    assert kept.stat().st_mtime_ns == built
    kept.write_bytes(kept.read_bytes()[:100])
    np.testing.assert_array_equal(run(loaded(what, "int8"))["y"].to_pylist(), rough)
    assert kept.stat().st_mtime_ns != built
    affine(tmp_path / "net.onnx", WEIGHT, BIAS + 1)
    loaded(what, "int8")
    assert len(list(cache.glob("artefacts/*"))) == len(list(cache.glob("artefacts/*/model.onnx"))) == 2


def test_an_int8_file_runs_as_it_is_and_at_no_other_precision(tmp_path: Path, cache: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    what = step(tmp_path / "net.onnx", {"x": "v"}, {"y": "y"})
    assert precisions(what, "cpu") == ("fp32", "int8")
    rough = run(loaded(what, "int8"))["y"]
    (kept,) = cache.glob("artefacts/*/model.onnx")
    given = step(kept, {"x": "v"}, {"y": "y"})
    assert precisions(given, "cpu") == ("native",)
    assert run(loaded(given, "native"))["y"].equals(rough)
    for asked in ("fp32", "int8", "bf16"):
        with pytest.raises(ModelError, match=rf"model\.precision: .* runs at native here, not at {asked}"):
            check(given.model_copy(update={"precision": asked}))
    with pytest.raises(ModelError, match=r"model\.precision: .* runs at native here, not at int8"):
        loaded(given, "int8")


def test_a_half_precision_file_is_native(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT.astype(np.float16), BIAS.astype(np.float16), kind=TensorProto.FLOAT16)
    what = step(tmp_path / "net.onnx", {"x": "v"}, {"best": "k"})
    assert precisions(what, "cpu") == ("native",)
    assert open_engine(what).load("cpu", "native", 1).precision == "native"


def test_int8_of_a_graph_without_weights_is_refused(tmp_path: Path, cache: Path) -> None:
    one(tmp_path / "net.onnx", "Abs", (FLOAT, ["n"]), (FLOAT, ["n"]))
    with pytest.raises(ModelError, match=r"model\.precision: int8: .* has no operator that ONNX Runtime runs in int8"):
        loaded(step(tmp_path / "net.onnx", {"x": "a"}, {"y": "y"}), "int8")
    assert not list(cache.glob("artefacts/*"))


def test_the_provider_that_runs_is_told_and_one_that_is_absent_is_refused(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    what = step(tmp_path / "net.onnx", {"x": "v"}, {"y": "y"})
    assert open_engine(what).load("cpu", "fp32", 1).provider == "CPUExecutionProvider"
    assert [device_for(what, gpus) for gpus in (None, 0, 1)] == ["cpu", "cpu", "cuda"]
    with pytest.raises(ModelError, match=r"resources\.gpus: this ONNX Runtime has no CUDAExecutionProvider, but .*CPU"):
        open_engine(what).load("cuda", "fp32", 1)
    asked = what.model_copy(update={"options": {"provider": "DmlExecutionProvider"}})
    with pytest.raises(ModelError, match=r"model\.options\.provider: this ONNX Runtime has no DmlExecutionProvider"):
        open_engine(asked).load("cpu", "fp32", 1)


def test_a_missing_extra_is_told_when_the_job_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    what = step(tmp_path / "net.onnx", {"x": "v"}, {"y": "y"})
    find = importlib.util.find_spec
    for package, precision in (("onnxruntime", "fp32"), ("onnx", "int8")):
        monkeypatch.setattr(
            registry.importlib.util, "find_spec", lambda name, p=package: None if name == p else find(name)
        )
        with pytest.raises(MissingExtraError, match=rf"needs the package {package}: pip install 'batchinfer\[onnx\]'"):
            check(what.model_copy(update={"precision": precision}))


def test_wrong_keys_are_named_when_the_job_is_planned(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS)
    good = {"inputs": {"x": "v"}, "outputs": {"y": "y"}}
    for path, keys, message in (
        (tmp_path / "net.onnx", {"options": {"provder": "x"}}, r"model\.options\.provder: .*did you mean provider"),
        (tmp_path / "net.onnx", {"precision": "bf16"}, r"model\.precision: .* runs at fp32 or int8 here, not at bf16"),
        (tmp_path / "other.onnx", {}, r"model\.uri: there is no file"),
        (
            tmp_path / "net.xml",
            {},
            r"model\.uri: the onnx engine loads an \.onnx file, or a folder with one, not .*net\.xml",
        ),
        (tmp_path / "net.onnx", {"task": "embedding"}, r"model\.inputs\.x: embedding has no such input"),
    ):
        with pytest.raises(ModelError, match=message):
            check(step(path, **{**good, **keys}))
