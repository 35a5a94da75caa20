"""int8 whose ranges come from rows of the user's: of ONNX Runtime and of OpenVINO, on a small network of convolutions and on texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import helper, numpy_helper

from batchinfer import Job
from batchinfer.engines import calibration
from batchinfer.engines.checks import check
from batchinfer.engines.registry import identify, open_engine
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.testing.engines import EngineContract
from tests.engines.graphs import FLOAT, affine, export_text, write
from tests.engines.models import loaded, run, texts, tiny, vectors
from tests.engines.models import step as text_step

_generator = np.random.default_rng(3)
KERNELS = [_generator.normal(0, 0.3, size=shape).astype(np.float32) for shape in ((8, 3, 3, 3), (8, 8, 3, 3))]
ENGINES = ["onnx", "openvino"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BATCHINFER_CACHE", str(folder))
    return folder


def convolutions(path: Path) -> Path:
    """From `x` of shape (rows, 3, 8, 8) over two convolutions to `y` of shape (rows, 8)."""
    nodes = [
        helper.make_node("Conv", ["x", "k0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "k1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", FLOAT, ["rows", 3, 8, 8])
    gives = helper.make_tensor_value_info("y", FLOAT, ["rows", 8])
    weights = [numpy_helper.from_array(kernel, f"k{number}") for number, kernel in enumerate(KERNELS)]
    write(helper.make_graph(nodes, "convolutions", [given], [gives], weights), path)
    return path


def pictures(rows: int = 40, scale: float = 1.0, seed: int = 0) -> pa.Table:
    values = (scale * np.random.default_rng(seed).random((rows, 192))).astype(np.float32)
    return pa.table({"id": range(rows), "v": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 192)})


def rows_in(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


def step(engine: str, folder: Path, rows: Path | None, **keys: Any) -> Step:
    path = folder / "net.onnx"
    if not path.exists():
        convolutions(path)
    options = {} if rows is None else {"calibration": str(rows)}
    given = {"engine": engine, "uri": str(path), "inputs": {"x": "v"}, "outputs": {"y": "y"}, "options": options}
    return Step.model_validate({**given, **keys})


def computed(what: Step, precision: str, table: pa.Table) -> np.ndarray:
    engine = open_engine(what)
    engine.load("cpu", precision, 1)
    return vectors(engine.finish(engine.infer(engine.prepare(table).batch(slice(0, len(table)))))["y"])


def operators(cache: Path) -> set[str]:
    """Of the graph that is kept."""
    (path,) = cache.rglob("*.onnx")
    return {node.op_type for node in onnx.load(path).graph.node}


class Contract(EngineContract):
    precision = "int8"
    tolerance = 0.02
    runtime = "onnx"

    def build(self) -> Step:
        return step(self.runtime, self.folder, rows_in(self.folder / "rows.parquet", pictures()))

    def rows(self) -> pa.Table:
        return pictures(9, seed=1)

    def change(self) -> None:
        rows_in(self.folder / "rows.parquet", pictures(41))


class TestOnnx(Contract):
    runtime = "onnx"


class TestOpenVINO(Contract):
    runtime = "openvino"


del Contract


@pytest.mark.parametrize("engine", ENGINES)
def test_ranges_are_those_of_the_rows_that_are_named(tmp_path: Path, engine: str) -> None:
    """What is larger than all of them is cut off."""
    table = pictures(20, seed=1)
    exact = computed(step(engine, tmp_path, None), "fp32", table)
    near, cut = (
        computed(step(engine, tmp_path, rows_in(tmp_path / f"{scale}.parquet", pictures(scale=scale))), "int8", table)
        for scale in (1.0, 0.2)
    )
    assert 0 < np.abs(near - exact).max() < 0.03 * exact.max()
    assert np.abs(cut - exact).max() > 0.3 * exact.max()


def test_without_rows_ranges_are_found_as_they_come_and_with_them_ahead(tmp_path: Path, cache: Path) -> None:
    rows = rows_in(tmp_path / "rows.parquet", pictures())
    computed(step("onnx", tmp_path, rows), "int8", pictures(2))
    assert "QuantizeLinear" in operators(cache)
    assert not operators(cache) & {"DynamicQuantizeLinear", "ConvInteger"}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_is_calibrated_once_for_the_same_rows(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def noted(what: Step, path: Path) -> None:
        read.append(path)

    monkeypatch.setattr(calibration, "check_file", noted)
    rows, table = rows_in(tmp_path / "rows.parquet", pictures()), pictures(20, seed=1)
    first = computed(step(engine, tmp_path, rows), "int8", table)
    np.testing.assert_array_equal(computed(step(engine, tmp_path, rows), "int8", table), first)
    (tmp_path / "elsewhere").mkdir()
    moved = rows.rename(tmp_path / "elsewhere" / "rows.parquet")
    np.testing.assert_array_equal(computed(step(engine, tmp_path, moved), "int8", table), first)
    assert read == [rows]
    computed(step(engine, tmp_path, rows_in(rows, pictures(scale=0.9))), "int8", table)
    assert read == [rows, rows]


@pytest.mark.parametrize("engine", ENGINES)
def test_texts_are_calibrated_by_texts(tmp_path: Path, engine: str) -> None:
    tiny(tmp_path, "BertModel", ["a"])
    export_text(tmp_path, "AutoModel", "last_hidden_state")
    table = pa.table({"t": texts(40)})
    what = text_step(str(tmp_path), "embedding", {"embedding": "e"}).model_copy(update={"engine": engine})
    rows = {"calibration": str(rows_in(tmp_path / "rows.parquet", table))}
    rough = vectors(run(loaded(what.model_copy(update={"options": rows}), "int8"), table)["embedding"])
    exact = vectors(run(loaded(what), table)["embedding"])
    cosines = (rough * exact).sum(1) / np.linalg.norm(rough, axis=1) / np.linalg.norm(exact, axis=1)
    assert 0.9 < cosines.mean() < 0.99999


def test_only_the_first_rows_of_the_file_are_used(tmp_path: Path) -> None:
    table, rows = pictures(20, seed=1), tmp_path / "rows.parquet"
    whole = computed(step("onnx", tmp_path, rows_in(rows, pictures(calibration.ROWS))), "int8", table)
    more = pa.concat_tables([pictures(calibration.ROWS), pictures(50, scale=100)])
    np.testing.assert_array_equal(computed(step("onnx", tmp_path, rows_in(rows, more)), "int8", table), whole)


@pytest.mark.parametrize(
    ("table", "keys", "message"),
    [
        (None, {}, r"model\.options\.calibration: there is no file .*rows\.parquet"),
        (pictures().rename_columns(["id", "w"]), {}, r"calibration: .* lacks v, which the step reads"),
        (pictures(0), {}, r"calibration: .* has no rows"),
        (pictures(), {"precision": "fp32"}, r"calibration: is for int8, at which the model doesn't run here: remove"),
        ("no table", {}, r"calibration: .* can't be read as Parquet"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_cannot_be_used_are_refused_when_the_job_is_planned(
    tmp_path: Path, engine: str, table: Any, keys: dict[str, Any], message: str
) -> None:
    rows = tmp_path / "rows.parquet"
    if isinstance(table, str):
        rows.write_text(table)
    elif table is not None:
        rows_in(rows, table)
    with pytest.raises(ModelError, match=message):
        check(step(engine, tmp_path, rows, **keys))


def test_a_graph_that_is_int8_already_needs_no_rows(tmp_path: Path, cache: Path) -> None:
    rows = rows_in(tmp_path / "rows.parquet", pictures())
    computed(step("onnx", tmp_path, rows), "int8", pictures(2))
    (made,) = cache.rglob("*.onnx")
    with pytest.raises(ModelError, match="calibration: is for int8, at which the model doesn't run here"):
        check(step("onnx", tmp_path, rows, uri=str(made)))


def test_a_row_that_the_model_cannot_take_is_told(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", np.ones((2, 3), np.float32), np.ones(3, np.float32))
    rows = rows_in(tmp_path / "rows.parquet", pa.table({"a": [1.0, None, 3.0], "b": [1.0, 2.0, 3.0]}))
    what = step("onnx", tmp_path, rows, inputs={"x": ["a", "b"]})
    with pytest.raises(ModelError, match=r"calibration: one of the first 3 rows of .*rows\.parquet .*input x is null"):
        open_engine(what).load("cpu", "int8", 1)


def test_the_rows_are_part_of_what_the_model_is(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", np.ones((192, 2), np.float32), np.ones(2, np.float32))
    without = identify(step("onnx", tmp_path, None))
    rows = rows_in(tmp_path / "rows.parquet", pictures())
    first = identify(step("onnx", tmp_path, rows))
    rows_in(rows, pictures(scale=2))
    assert len({found.digest for found in (without, first, identify(step("onnx", tmp_path, rows)))}) == 3
    assert "calibration/rows.parquet" in first.files


def test_a_job_runs_at_it_with_the_gates_blessing(tmp_path: Path) -> None:
    rows_in(tmp_path / "in.parquet", pictures(600, seed=1))
    what = step("onnx", tmp_path, rows_in(tmp_path / "rows.parquet", pictures()), precision="int8")
    (tmp_path / "job.yaml").write_text("""
version: 1
name: calibrated
input: {path: in.parquet, key: id}
model:
  engine: onnx
  uri: net.onnx
  precision: int8
  inputs: {x: v}
  outputs: {y: y}
  options: {calibration: rows.parquet}
output: {path: out}
resources: {executor: inline}
""")
    run = Job.from_yaml(tmp_path / "job.yaml").run()
    assert run.exit_code == 0
    (settings,) = run.record["settings"]["steps"]
    assert settings["precision"] == "int8"
    assert settings["measured"]["gate"]["passed"]
    given = np.array(run.results().collect()["y"].to_list())
    np.testing.assert_allclose(given, computed(what, "int8", pictures(600, seed=1)), rtol=1e-5)
