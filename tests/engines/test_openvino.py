"""The openvino engine: graphs of its own, of ONNX, and transformers models made graphs, on columns and on texts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pyarrow as pa
import pytest

from batchinfer.engines.checks import check
from batchinfer.engines.protocol import Engine
from batchinfer.engines.registry import identify, open_engine, precisions
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.steps import Step
from batchinfer.precision import openvino_int8
from batchinfer.testing.engines import EngineContract
from tests.engines.graphs import affine, export_text
from tests.engines.models import assert_same_findings, loaded, minilm_folder, run, texts, tiny, vectors
from tests.engines.models import step as text_step

_generator = np.random.default_rng(5)
WEIGHT = _generator.normal(size=(64, 32)).astype(np.float32)
BIAS = _generator.normal(size=32).astype(np.float32)
ROWS = _generator.normal(size=(20, 64)).astype(np.float32)
TABLE = pa.table({"v": pa.array(ROWS.tolist(), pa.list_(pa.float32(), 64)), "n": range(20)})
LABELS = ["O", "B-PER", "I-PER"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BATCHINFER_CACHE", str(folder))
    return folder


def step(path: Path, **keys: Any) -> Step:
    inputs, outputs = {"x": "v"}, {"y": "h", "best": "k"}
    return Step.model_validate({"engine": "openvino", "uri": str(path), "inputs": inputs, "outputs": outputs, **keys})


def as_openvino(what: Step, **keys: Any) -> Step:
    return what.model_copy(update={"engine": "openvino", **keys})


def save_ir(folder: Path, bias: np.ndarray = BIAS, name: str = "net.xml") -> Path:
    """`affine` as OpenVINO's own files, its weights in 16 bits as OpenVINO saves them."""
    affine(folder / "net.onnx", WEIGHT, bias)
    openvino.save_model(openvino.convert_model(folder / "net.onnx"), folder / name)
    (folder / "net.onnx").unlink()
    return folder / name


def computed(engine: Engine) -> np.ndarray:
    return vectors(engine.finish(engine.infer(engine.prepare(TABLE).batch(slice(0, 20))))["y"])


class TestColumns(EngineContract):
    def build(self) -> Step:
        return step(save_ir(self.folder))

    def rows(self) -> pa.Table:
        return TABLE

    def change(self) -> None:
        (self.folder / "changed").mkdir()
        save_ir(self.folder / "changed", BIAS + 1)
        shutil.copy(self.folder / "changed" / "net.bin", self.folder)


class TestInt8(TestColumns):
    precision = "int8"
    tolerance = 0.1  # values of a layer's input are rounded in groups


class TestTexts(EngineContract):
    def build(self) -> Step:
        tiny(self.folder, "BertModel", ["a"])
        return as_openvino(text_step(str(self.folder), "embedding", {"embedding": "e"}))

    def rows(self) -> pa.Table:
        return pa.table({"t": texts(12)})

    def change(self) -> None:
        path = self.folder / "tokenizer.json"
        path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))


@pytest.mark.parametrize("kind", ["ir", "onnx"])
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-2), ("bf16", 0.2), ("int8-weight", 0.2), ("int8", 0.5)])
def test_a_graph_computes_what_numpy_computes(tmp_path: Path, kind: str, precision: str, most: float) -> None:
    path = save_ir(tmp_path)
    if kind == "onnx":
        path = tmp_path / "net.onnx"
        affine(path, WEIGHT, BIAS)
    if precision not in precisions(step(path), "cpu"):  # bf16, on a processor without
        with pytest.raises(ModelError, match="not at bf16"):
            loaded(step(path), precision)
        return
    given = computed(loaded(step(path), precision))
    expected = ROWS @ WEIGHT + BIAS
    assert np.abs(given - expected).max() <= most
    if precision != "fp32":
        assert np.abs(given - expected).max() > 1e-5, "it ran at a lower precision"


@pytest.mark.slow
def test_minilm_gives_the_embeddings_that_torch_gives(tmp_path: Path) -> None:
    shutil.copytree(minilm_folder(), tmp_path / "m")
    what, table = text_step(str(tmp_path / "m"), "embedding", {"embedding": "e"}), pa.table({"t": texts(50)})
    theirs = vectors(run(loaded(what), table)["embedding"])
    known = precisions(as_openvino(what), "cpu")
    for precision, least in (("fp32", 0.9999), ("bf16", 0.9998), ("int8-weight", 0.998), ("int8", 0.997)):
        if precision not in known:
            continue
        ours = vectors(run(loaded(as_openvino(what), precision), table)["embedding"])
        assert (ours * theirs).sum(1).min() >= least, precision


@pytest.mark.parametrize(
    ("task", "model_class", "outputs"),
    [
        ("text-classification", "BertForSequenceClassification", ["label", "scores"]),
        ("token-classification", "BertForTokenClassification", ["entities"]),
    ],
)
def test_labels_and_entities_are_those_of_the_transformers_engine(
    tmp_path: Path, task: str, model_class: str, outputs: list[str]
) -> None:
    tiny(tmp_path, model_class, LABELS)
    what, table = text_step(str(tmp_path), task, {name: name for name in outputs}), pa.table({"t": texts(40)})
    ours, theirs = run(loaded(as_openvino(what)), table), run(loaded(what), table)
    assert_same_findings(task, ours, theirs)


def test_a_transformers_model_is_made_a_graph_once(tmp_path: Path, cache: Path) -> None:
    tiny(tmp_path, "BertModel", ["a"])
    what = as_openvino(text_step(str(tmp_path), "embedding", {"embedding": "e"}))
    loaded(what)
    (first,) = (cache / "artefacts").iterdir()
    made = (first / "model.xml").stat().st_mtime_ns
    loaded(what)
    assert [(p / "model.xml").stat().st_mtime_ns for p in (cache / "artefacts").iterdir()] == [made]
    (first / "model.bin").write_bytes(b"damaged")
    assert run(loaded(what), pa.table({"t": ["a b"]}))["embedding"]


def test_a_graph_beside_the_weights_is_taken_as_it_is(tmp_path: Path, cache: Path) -> None:
    tiny(tmp_path, "BertModel", ["a"])
    (tmp_path / "openvino").mkdir()
    export_text(tmp_path, "AutoModel", "last_hidden_state")
    openvino.save_model(openvino.convert_model(tmp_path / "model.onnx"), tmp_path / "openvino" / "model.xml")
    (tmp_path / "model.onnx").unlink()
    what = as_openvino(text_step(str(tmp_path), "embedding", {"embedding": "e"}))
    files = identify(what).files
    assert {"model.xml", "model.bin", "tokenizer.json"} <= set(files)
    assert "model.safetensors" not in files
    loaded(what)
    assert not cache.joinpath("artefacts").exists()


def test_calls_of_several_threads_at_a_time_give_what_each_alone_gives(tmp_path: Path) -> None:
    engine = loaded(step(save_ir(tmp_path)))
    batches = [engine.prepare(TABLE).batch(slice(n, n + 5)) for n in range(15)] * 20
    alone = [np.asarray(engine.infer(batch).values["y"]) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: np.asarray(engine.infer(batch).values["y"]), batches))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_outputs_are_not_overwritten_by_the_next_call(tmp_path: Path) -> None:
    engine = loaded(step(save_ir(tmp_path)))
    first = engine.infer(engine.prepare(TABLE).batch(slice(0, 5)))
    before = np.array(first.values["y"])
    engine.infer(engine.prepare(TABLE).batch(slice(5, 10)))
    np.testing.assert_array_equal(first.values["y"], before)


def test_a_graph_that_comes_quantized_runs_as_it_is(tmp_path: Path, cache: Path) -> None:
    path = openvino_int8.compressed(save_ir(tmp_path), {}, "model")
    assert precisions(step(path), "cpu") == ("native",)
    given = computed(loaded(step(path), "native"))
    assert np.abs(given - (ROWS @ WEIGHT + BIAS)).max() < 0.5
    with pytest.raises(ModelError, match=r"runs at native here, not at int8: change or remove it"):
        check(step(path, precision="int8"))


def test_a_precision_that_the_engine_lacks_is_refused_when_the_job_is_planned(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.precision: .* runs at fp32 or .* here, not at fp16"):
        check(step(save_ir(tmp_path), precision="fp16"))


def test_a_constant_of_eight_bits_that_is_no_weight_leaves_a_graph_a_float_one(tmp_path: Path) -> None:
    path = save_ir(tmp_path)
    text = path.read_text()
    const = '<layer id="99" name="mask" type="Const" version="opset1"><data element_type="u8" shape="4" offset="0" size="4" /></layer>'
    path.write_text(text.replace("</layers>", f"{const}</layers>"))
    assert precisions(step(path), "cpu")[0] == "fp32"


@pytest.mark.slow
def test_converting_and_compressing_tell_nobody_and_print_nothing(tmp_path: Path, cache: Path) -> None:
    tiny(tmp_path, "BertModel", ["a"])
    what = as_openvino(text_step(str(tmp_path), "embedding", {"embedding": "e"}))
    code = (
        "import sys\n"
        "told = []\n"
        "sys.addaudithook(lambda event, given: told.append(event) if event in ('socket.connect', 'subprocess.Popen') else None)\n"
        "from batchinfer.engines.registry import open_engine\n"
        "from batchinfer.job.spec import Step\n"
        "open_engine(Step.model_validate_json(sys.argv[1])).load('cpu', 'int8', 1)\n"
        "import time; time.sleep(1)\n"
        "assert not [e for e in told if e == 'socket.connect'], told\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, what.model_dump_json()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert len(list((cache / "artefacts").iterdir())) == 2


def test_a_graph_without_weights_to_compress_is_refused(tmp_path: Path) -> None:
    from tests.engines.graphs import FLOAT, one

    one(tmp_path / "net.onnx", "Abs", (FLOAT, ["n", 64]), (FLOAT, ["n", 64]))
    what = step(tmp_path / "net.onnx", outputs={"y": "h"})
    with pytest.raises(ModelError, match="has no layer whose weights can be compressed: ask for fp32"):
        open_engine(what).load("cpu", "int8", 1)


def test_batches_of_one_size_are_refused_with_what_helps(tmp_path: Path) -> None:
    affine(tmp_path / "net.onnx", WEIGHT, BIAS, rows=8)
    with pytest.raises(ModelError, match=r"takes batches of 8 only .* make its first axis one of any size"):
        open_engine(step(tmp_path / "net.onnx")).load("cpu", "fp32", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<net", "is no model of OpenVINO's"),
        ("<net></net>", "it has no layers"),
        ("<net><layers><layer type='Result'/></layers></net>", r"the weights of .* are missing: copy net\.bin"),
    ],
)
def test_a_file_that_is_no_graph_is_refused_when_the_job_is_planned(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "net.xml").write_text(text)
    with pytest.raises(ModelError, match=message):
        check(step(tmp_path / "net.xml"))


@pytest.mark.parametrize(("package", "precision"), [("openvino", "auto"), ("nncf", "int8")])
def test_what_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, precision: str
) -> None:
    path = save_ir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more)
    )
    with pytest.raises(MissingExtraError, match=rf"needs the package {package}: pip install 'batchinfer\[openvino\]'"):
        check(step(path, precision=precision))


def test_the_environment_is_as_before_once_nothing_more_is_to_be_told() -> None:
    before = dict(os.environ)
    with openvino_int8.untold():
        assert os.environ["NNCF_CI"] == "true"
    assert dict(os.environ) == before
