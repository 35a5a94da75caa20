from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.engines.checks import check
from batchinfer.engines.protocol import Engine
from batchinfer.engines.registry import identify, open_engine
from batchinfer.engines.travel import pack, unpack
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.testing.engines import EngineContract

SCORER = """
import numpy as np
from scoring_weights import WEIGHTS

class Scorer:
    def __init__(self, *, scale=1.0):
        self.scale = scale

    def __call__(self, batch):
        x = np.asarray(batch["x"], dtype=float)
        return {"y": x @ WEIGHTS * self.scale, "name": [f"{v}!" for v in batch["name"]]}
"""

SEEN = """
class Seen:
    def __call__(self, batch):
        self.batch = batch
        first = next(iter(batch.values()))
        return {"y": list(range(len(first)))}
"""

TABLE = pa.table(
    {
        "a": pa.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        "b": pa.array([1, 2, 3, 4, 5], pa.int32()),
        "name": ["p", "q", None, "s", "t"],
        "holes": pa.array([1.0, None, 3.0, 4.0, 5.0]),
        "vector": pa.array([[i, i + 1] for i in range(5)], pa.list_(pa.float32(), 2)),
        "flag": [True, False, True, False, True],
    }
)


def write(folder: Path, name: str, source: str) -> None:
    path = folder / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))


def step(uri: str, inputs: dict[str, Any], outputs: dict[str, Any] | None = None, **more: Any) -> Step:
    keys = {"engine": "python", "uri": uri, "inputs": inputs, "outputs": outputs or {"y": "y"}, **more}
    return Step.model_validate(keys)


def loaded(folder: Path, source: str, inputs: dict[str, Any], **more: Any) -> Engine:
    """An engine around the first class of `source`."""
    write(folder, "model_here", source)
    name = source.split("class ", 1)[1].split(":")[0].split("(")[0].strip()
    engine = open_engine(step(f"model_here:{name}", inputs, **more), [str(folder)])
    engine.load("cpu", "native", 1)
    return engine


def run(engine: Engine, table: pa.Table = TABLE, rows: Any = slice(0, 5)) -> dict[str, pa.Array]:
    return dict(engine.finish(engine.infer(engine.prepare(table).batch(rows))))


class TestPythonEngine(EngineContract):
    precision = "native"
    refuses_nulls = False

    def build(self) -> Step:
        write(self.folder, "scoring", SCORER)
        write(self.folder, "scoring_weights", "import numpy as np\nWEIGHTS = np.array([1.0, 10.0])\n")
        outputs = {"y": "y", "name": "loud"}
        return step("scoring:Scorer", {"x": ["a", "b"], "name": "name"}, outputs, options={"scale": 2.0})

    def rows(self) -> pa.Table:
        return TABLE

    def code(self) -> list[str]:
        return [str(self.folder)]

    def change(self) -> None:
        write(self.folder, "scoring_weights", "import numpy as np\nWEIGHTS = np.array([1.0, 11.0])\n")


def test_a_class_sees_arrays_matrices_and_lists(tmp_path: Path) -> None:
    inputs = {"a": "a", "ab": ["a", "b"], "vector": "vector", "name": "name", "holes": "holes", "flag": "flag"}
    engine = loaded(tmp_path, SEEN, inputs)
    run(engine)
    batch = engine._model.batch  # type: ignore[attr-defined]
    assert batch["a"].dtype == np.float64
    assert batch["a"].ctypes.data == TABLE["a"].chunk(0).buffers()[1].address
    assert batch["ab"].tolist() == [[float(i), float(i)] for i in range(1, 6)]
    assert batch["vector"].shape == (5, 2)
    assert batch["vector"].ctypes.data == TABLE["vector"].chunk(0).flatten().buffers()[1].address
    assert batch["name"] == ["p", "q", None, "s", "t"]
    assert batch["holes"] == [1.0, None, 3.0, 4.0, 5.0]
    assert batch["flag"] == [True, False, True, False, True]


def test_a_batch_without_the_nulls_of_its_window_is_an_array_again(tmp_path: Path) -> None:
    engine = loaded(tmp_path, SEEN, {"holes": "holes", "both": ["a", "holes"]})
    run(engine, rows=slice(2, 5))
    batch = engine._model.batch  # type: ignore[attr-defined]
    assert batch["holes"].tolist() == [3.0, 4.0, 5.0]
    assert batch["both"].shape == (3, 2)
    run(engine, rows=np.array([1, 0]))
    assert engine._model.batch["both"] == [[2.0, None], [1.0, 1.0]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("answer", ["table", "batch", "dict"])
def test_an_arrow_class_gets_a_table_and_may_return_one(tmp_path: Path, answer: str) -> None:
    source = f"""
    import pyarrow as pa, pyarrow.compute as pc
    class Adds:
        def __call__(self, table):
            assert table.column_names == ["x", "a", "b"]
            y = pc.add(table["a"], table["b"])
            t = pa.table({{"y": y}})
            return {{"table": t, "batch": t.to_batches()[0], "dict": {{"y": y}}}}["{answer}"]
    """
    engine = loaded(tmp_path, source, {"x": "name", "m": ["a", "b"]}, input_format="arrow")
    assert run(engine)["y"].to_pylist() == [2.0, 4.0, 6.0, 8.0, 10.0]


@pytest.mark.parametrize("answer", ["frame", "dict"])
def test_a_polars_class_gets_a_frame_and_may_return_one(tmp_path: Path, answer: str) -> None:
    source = f"""
    class Adds:
        def __call__(self, frame):
            out = frame.select(y=frame["x"] + 1)
            return out if "{answer}" == "frame" else {{"y": out["y"]}}
    """
    engine = loaded(tmp_path, source, {"x": "a"}, input_format="polars")
    assert run(engine)["y"].to_pylist() == [2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ("np.arange(5, dtype='int16')", pa.int16()),
        ("np.ones((5, 3), dtype='float32')", pa.list_(pa.float32(), 3)),
        ("np.ones((5, 2, 3))", pa.list_(pa.list_(pa.float64(), 3), 2)),
        ("np.asfortranarray(np.ones((5, 3)))", pa.list_(pa.float64(), 3)),
        ("np.array(['a', None, 'c', 'd', 'e'], dtype=object)", pa.string()),
        ("[1, None, 3, 4, 5]", pa.int64()),
        ("pa.array([1, 2, 3, 4, 5], pa.int8())", pa.int8()),
        ("pa.chunked_array([[1, 2], [3, 4, 5]], pa.int8())", pa.int8()),
        ("torch.ones(5, 2, dtype=torch.bfloat16)", pa.list_(pa.float32(), 2)),
        ("list(torch.ones(5, 2))", pa.list_(pa.float32())),
        ("list(torch.ones(5))", pa.float32()),
        ("pl.Series([1, 2, 3, 4, 5], dtype=pl.UInt8)", pa.uint8()),
    ],
)
def test_values_of_every_common_kind_become_arrow_columns(tmp_path: Path, values: str, kind: pa.DataType) -> None:
    source = f"""
    import numpy as np, polars as pl, pyarrow as pa, torch
    class Gives:
        def __call__(self, batch):
            return {{"y": {values}}}
    """
    column = run(loaded(tmp_path, source, {"x": "a"}))["y"]
    assert column.type == kind
    assert len(column) == 5


def test_a_class_may_fill_the_same_array_in_every_call(tmp_path: Path) -> None:
    source = """
    import numpy as np
    class Reuses:
        def __init__(self):
            self.out = np.empty(2)
        def __call__(self, batch):
            np.copyto(self.out, batch["x"])
            return {"y": self.out}
    """
    engine = loaded(tmp_path, source, {"x": "a"})
    prepared = engine.prepare(TABLE)
    first = engine.infer(prepared.batch(slice(0, 2)))
    engine.infer(prepared.batch(slice(2, 4)))
    assert engine.finish(first)["y"].to_pylist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ('{"y": [1]}', "1 values for 5 rows"),
        ('{"z": [1]}', "no output of this name; it gave: z"),
        ('{"y": 3}', "int is not a numpy array"),
        ("[1, 2, 3, 4, 5]", "must return a dict"),
    ],
)
def test_a_wrong_answer_is_the_models_fault_and_not_a_rows(tmp_path: Path, answer: str, message: str) -> None:
    engine = loaded(tmp_path, f"class Wrong:\n    def __call__(self, batch):\n        return {answer}\n", {"x": "a"})
    with pytest.raises(ModelError, match=message):
        run(engine)


def test_values_without_a_common_type_are_a_rows_fault_and_can_be_isolated(tmp_path: Path) -> None:
    source = "class Mixed:\n    def __call__(self, batch):\n        return {'y': [1, 'a', 2, 3, 4]}\n"
    engine = loaded(tmp_path, source, {"x": "a"})
    with pytest.raises(ValueError, match=r"'y'.*'a'"):
        run(engine)


def test_what_a_class_raises_is_raised_as_it_is(tmp_path: Path) -> None:
    engine = loaded(tmp_path, "class Bad:\n    def __call__(self, batch):\n        raise KeyError('row')\n", {"x": "a"})
    with pytest.raises(KeyError, match="row"):
        run(engine)


def test_a_class_that_asks_for_the_device_is_told(tmp_path: Path) -> None:
    source = """
    class M:
        def __init__(self, device):
            self.device = device
        def __call__(self, batch):
            return batch
    """
    assert loaded(tmp_path, source, {"x": "a"})._model.device == "cpu"  # type: ignore[attr-defined]
    given = loaded(tmp_path, source, {"x": "a"}, options={"device": "mine"})
    assert given._model.device == "mine"  # type: ignore[attr-defined]


def test_options_that_the_class_does_not_take_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.options: .*nope"):
        loaded(tmp_path, SEEN, {"x": "a"}, options={"nope": 1})


def test_code_that_was_edited_is_imported_anew(tmp_path: Path) -> None:
    source = "from model_part import VALUE\nclass M:\n    def __call__(self, b):\n        return {'y': [VALUE] * 5}\n"
    write(tmp_path, "model_part", "VALUE = 1\n")
    assert run(loaded(tmp_path, source, {"x": "a"}))["y"].to_pylist() == [1] * 5
    write(tmp_path, "model_part", "VALUE = 2\n")
    assert run(loaded(tmp_path, source, {"x": "a"}))["y"].to_pylist() == [2] * 5


def test_two_code_folders_with_modules_of_one_name_do_not_mix(tmp_path: Path) -> None:
    for value in (1, 2, 1):
        source = f"class M:\n    def __call__(self, b):\n        return {{'y': [{value}] * 5}}\n"
        assert run(loaded(tmp_path / str(value), source, {"x": "a"}))["y"].to_pylist() == [value] * 5


def test_a_class_is_not_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "lies_here", SEEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    there = step("lies_here:Seen", {"x": "a"})
    for call in (check, identify, lambda s: open_engine(s).load("cpu", "native", 1)):
        with pytest.raises(ModelError, match="the job's `code` list"):
            call(there)


def test_a_misspelt_class_is_found_when_planning(tmp_path: Path) -> None:
    write(tmp_path, "model_here", SEEN)
    with pytest.raises(ModelError, match="did you mean Seen"):
        check(step("model_here:Sen", {"x": "a"}), [str(tmp_path)])


def test_the_identity_follows_every_form_of_import_and_runs_none(tmp_path: Path) -> None:
    write(
        tmp_path,
        "pack/model",
        """
        raise SystemExit("was imported")
        import json, numpy
        from . import near
        from .sub.deep import thing
        import other.part as p
        def later():
            import lazily
            __import__("by_name")
        class M: ...
        """,
    )
    for name in ("pack/__init__", "pack/near", "pack/sub/__init__", "pack/sub/deep", "lazily", "by_name", "unused"):
        write(tmp_path, name, "")
    write(tmp_path, "other/part", "from pack.far import *\n")
    write(tmp_path, "pack/far", "")
    identity = identify(step("pack.model:M", {"x": "a"}), [str(tmp_path)])
    expected = "by_name lazily other/part pack/__init__ pack/far pack/model pack/near pack/sub/__init__ pack/sub/deep"
    assert list(identity.files) == [f"{name}.py" for name in expected.split()]
    assert list(identity.packages) == ["numpy"]


def test_a_class_of_an_installed_package_is_known_by_its_version() -> None:
    identity = identify(step("collections:Counter", {"x": "a"}))
    assert identity.files == {}
    other = identify(step("pyarrow.lib:Table", {"x": "a"}))
    assert "pyarrow" in other.packages


PREPARED = """
class Lengths:
    made = 0

    def __init__(self):
        Lengths.made += 1

    {decorator}
    def prepare({parameters}):
        {body}

    def __call__(self, batch):
        return {{"y": batch["length"]}}
"""


def preparing(
    folder: Path, body: str, decorator: str = "@staticmethod", parameters: str = "batch", **more: Any
) -> Engine:
    source = PREPARED.format(decorator=decorator, parameters=parameters, body=body)
    return loaded(folder, source, {"name": "name"}, **more)


@pytest.mark.parametrize(("decorator", "parameters"), [("@staticmethod", "batch"), ("@classmethod", "cls, batch")])
def test_a_class_that_prepares_is_called_with_what_its_preparation_gives(
    tmp_path: Path, decorator: str, parameters: str
) -> None:
    engine = preparing(tmp_path, "return {'length': [len(n or '--') for n in batch['name']]}", decorator, parameters)
    assert run(engine)["y"].to_pylist() == [1, 1, 2, 1, 1]
    assert run(engine, rows=np.array([2, 0]))["y"].to_pylist() == [2, 1]


def test_preparing_elsewhere_builds_no_model(tmp_path: Path) -> None:
    engine = preparing(tmp_path, "return {'length': [7 for _ in batch['name']]}")
    other = unpack(pack(engine.without_model()))
    import model_here

    made = model_here.Lengths.made
    prepared = other.prepare(TABLE).batch(slice(0, 5))
    assert prepared.value == {"length": [7] * 5}
    assert model_here.Lengths.made == made


@pytest.mark.parametrize(("decorator", "parameters"), [("", "self, batch"), ("@staticmethod", "text, batch")])
def test_a_method_of_that_name_that_is_something_else_is_left_alone(
    tmp_path: Path, decorator: str, parameters: str
) -> None:
    engine = preparing(tmp_path, "raise AssertionError", decorator, parameters, outputs={"y": "y"})
    with pytest.raises(KeyError, match="length"):
        run(engine)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {'length': [1]}", r"gave \{'length': 1\} values for 5 rows: it must return a dict"),
        ("return [1, 2, 3, 4, 5]", "gave no dict for 5 rows"),
    ],
)
def test_a_preparation_without_a_value_for_each_row_is_the_models_fault(
    tmp_path: Path, body: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        run(preparing(tmp_path, body))


def test_a_function_is_called_with_the_batch_and_the_options(tmp_path: Path) -> None:
    write(tmp_path, "functions", "def scaled(batch, by=1):\n    return {'y': batch['x'] * by}\n\nTHREE = 3\n")
    of = step("functions:scaled", {"x": "a"}, options={"by": 3})
    check(of, [str(tmp_path)])
    engine = open_engine(of, [str(tmp_path)])
    engine.load("cpu", "native", 1)
    given = engine.finish(engine.infer(engine.prepare(TABLE).batch(slice(0, 5))))
    assert given["y"].to_pylist() == [3.0, 6.0, 9.0, 12.0, 15.0]
    for uri, options, message in [
        ("functions:scaled", {"times": 3}, r"model\.options: functions:scaled can't be called with a batch and them"),
        ("functions:THREE", {}, r"model\.uri: functions:THREE is neither a class nor a function"),
    ]:
        with pytest.raises(ModelError, match=message):
            open_engine(step(uri, {"x": "a"}, options=options), [str(tmp_path)]).load("cpu", "native", 1)
