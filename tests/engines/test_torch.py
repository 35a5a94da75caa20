from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from batchinfer.engines.checks import check
from batchinfer.engines.protocol import Engine
from batchinfer.engines.registry import identify, open_engine
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.testing.engines import EngineContract

NETS = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.first = torch.nn.Linear(3, width)
        self.last = torch.nn.Linear(2, 1)

    def forward(self, x, v):
        hidden = self.first(x)
        return hidden, self.last(v), hidden.argmax(1)
"""

_generator = np.random.default_rng(3)
TABLE = pa.table(
    {
        **{name: pa.array(_generator.normal(size=9), pa.float64()) for name in "abc"},
        "v": pa.array(_generator.normal(size=(9, 2)).astype(np.float32).tolist(), pa.list_(pa.float32(), 2)),
        "n": pa.array(range(9), pa.int64()),
        "flag": [row % 2 == 0 for row in range(9)],
        "text": ["t"] * 9,
    }
)
INPUTS = {"x": ["a", "b", "c"], "v": "v"}
OUTPUTS = {"hidden": "h", "value": "y", "best": "k"}


def net(folder: Path) -> torch.nn.Module:
    """The module of NETS, written to `folder` and built with fixed weights."""
    (folder / "nets.py").write_text(NETS)
    namespace: dict[str, Any] = {"__name__": "nets"}
    exec(compile(NETS, str(folder / "nets.py"), "exec"), namespace)
    torch.manual_seed(0)
    return namespace["Net"]().eval()


def step(uri: str, inputs: dict[str, Any], outputs: dict[str, Any], **options: Any) -> Step:
    keys = {"engine": "torch", "uri": uri, "inputs": inputs, "outputs": outputs, "options": options}
    return Step.model_validate(keys)


def export(module: torch.nn.Module, path: Path, *args: torch.Tensor, dynamic: bool = True) -> None:
    shapes = tuple({0: torch.export.Dim("rows")} for _ in args) if dynamic else None
    torch.export.save(torch.export.export(module, args, dynamic_shapes=shapes), path)


def loaded(what: Step, code: list[str] | None = None, precision: str = "fp32") -> Engine:
    engine = open_engine(what, code or [])
    engine.load("cpu", precision, 1)
    return engine


def run(engine: Engine, table: pa.Table = TABLE, rows: Any = None) -> dict[str, pa.Array]:
    rows = slice(0, len(table)) if rows is None else rows
    return dict(engine.finish(engine.infer(engine.prepare(table).batch(rows))))


class Exported(torch.nn.Module):
    """Wraps a module so that torch.export sees plain arguments."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


class Scripted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(2, 3)

    def forward(self, v: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.last(v)
        return {"hidden": hidden, "value": hidden.sum(1)}


class TestExportedProgram(EngineContract):
    def build(self) -> Step:
        export(net(self.folder), self.folder / "net.pt2", torch.randn(4, 3), torch.randn(4, 2))
        return step(str(self.folder / "net.pt2"), INPUTS, OUTPUTS)

    def rows(self) -> pa.Table:
        return TABLE

    def change(self) -> None:
        module = net(self.folder)
        torch.nn.init.zeros_(module.get_parameter("last.weight"))
        export(module, self.folder / "net.pt2", torch.randn(4, 3), torch.randn(4, 2))


class TestTorchScript(EngineContract):
    def build(self) -> Step:
        self.change()
        return step(str(self.folder / "net.pt"), {"v": "v"}, {"value": "y", "hidden": "h"})

    def rows(self) -> pa.Table:
        return TABLE

    def change(self) -> None:
        torch.jit.script(Scripted()).save(str(self.folder / "net.pt"))


class TestClassWithSafetensors(EngineContract):
    def build(self) -> Step:
        save_file(net(self.folder).state_dict(), self.folder / "w.safetensors")
        return step("nets:Net", INPUTS, OUTPUTS, weights=str(self.folder / "w.safetensors"), init={"width": 4})

    def rows(self) -> pa.Table:
        return TABLE

    def code(self) -> list[str]:
        return [str(self.folder)]

    def change(self) -> None:
        state = load_file(self.folder / "w.safetensors")
        save_file({**state, "last.bias": state["last.bias"] + 1}, self.folder / "w.safetensors")


def test_the_three_forms_of_a_module_agree_with_torch(tmp_path: Path) -> None:
    module = net(tmp_path)
    x = torch.tensor(np.stack([TABLE[name].to_numpy() for name in "abc"], axis=1), dtype=torch.float32)
    v = torch.tensor(TABLE["v"].to_pylist())
    hidden, value, best = module(x, v)
    export(module, tmp_path / "net.pt2", x, v)
    torch.jit.trace(module, (x, v)).save(str(tmp_path / "net.ts"))
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    for what in (
        step(str(tmp_path / "net.pt2"), INPUTS, OUTPUTS),
        step(str(tmp_path / "net.ts"), INPUTS, OUTPUTS),
        step("nets:Net", INPUTS, OUTPUTS, weights=str(tmp_path / "w.safetensors")),
    ):
        columns = run(loaded(what, [str(tmp_path)]))
        assert columns["hidden"].type == pa.list_(pa.float32(), 4)
        assert columns["value"].type == pa.float32()
        assert columns["best"].type == pa.int64()
        np.testing.assert_allclose(columns["hidden"].to_pylist(), hidden.detach().numpy(), atol=1e-6)
        np.testing.assert_allclose(columns["value"].to_numpy(), value[:, 0].detach().numpy(), atol=1e-6)
        assert columns["best"].to_pylist() == best.tolist()


def test_bf16_computes_in_bf16_and_gives_float32(tmp_path: Path) -> None:
    module = net(tmp_path)
    export(module, tmp_path / "net.pt2", torch.randn(4, 3), torch.randn(4, 2))
    what = step(str(tmp_path / "net.pt2"), INPUTS, OUTPUTS)
    exact, rough = run(loaded(what)), run(loaded(what, precision="bf16"))
    assert rough["hidden"].type == pa.list_(pa.float32(), 4)
    difference = np.abs(np.array(exact["hidden"].to_pylist()) - np.array(rough["hidden"].to_pylist())).max()
    assert 0 < difference < 0.05


def test_inputs_go_by_name_where_forward_has_the_names_and_else_by_position(tmp_path: Path) -> None:
    (tmp_path / "subtract.py").write_text(
        "import torch\nclass Minus(torch.nn.Module):\n    def forward(self, x, y):\n        return x - y\n"
    )
    for inputs in ({"y": "n", "x": "a"}, {"first": "a", "second": "n"}):
        columns = run(loaded(step("subtract:Minus", inputs, {"d": "d"}), [str(tmp_path)]))
        expected = TABLE["a"].to_numpy() - TABLE["n"].to_numpy()
        np.testing.assert_allclose(columns["d"].to_numpy(), expected)


def test_numbers_come_without_a_copy_and_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "same.py").write_text(
        "import torch\nclass Same(torch.nn.Module):\n    def forward(self, n, v, flag):\n        return n, v, flag\n"
    )
    inputs = {"n": "n", "v": "v", "flag": "flag"}
    engine = loaded(step("same:Same", inputs, {"n": "n2", "v": "v2", "flag": "f2"}), [str(tmp_path)])
    batch = engine.prepare(TABLE).batch(slice(2, 5))
    assert batch.tensors["n"].data_ptr() == TABLE["n"].chunk(0).buffers()[1].address + 2 * 8
    assert batch.tensors["v"].data_ptr() == TABLE["v"].chunk(0).flatten().buffers()[1].address + 2 * 2 * 4
    assert batch.tensors["n"].dtype == torch.int64
    columns = engine.finish(engine.infer(batch))
    assert columns["n"].to_pylist() == [2, 3, 4]
    assert columns["flag"].to_pylist() == [True, False, True]
    assert not [str(w.message) for w in recwarn if "writ" in str(w.message)]


def test_a_module_that_writes_into_its_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inplace.py").write_text(
        "import torch\nclass Bad(torch.nn.Module):\n    def forward(self, x):\n        return x.mul_(2)\n"
    )
    engine = loaded(step("inplace:Bad", {"x": "a"}, {"y": "y"}), [str(tmp_path)])
    own = pa.table({"a": pa.array([1.0, 2.0])})
    with pytest.raises(ModelError, match=r"writes into its input x.*clone"):
        run(engine, own)


def test_an_exported_program_takes_keywords_as_it_was_traced(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    rows = {0: torch.export.Dim("rows")}
    module = net(tmp_path)
    program = torch.export.export(
        module, (torch.randn(4, 3),), {"v": torch.randn(4, 2)}, dynamic_shapes={"x": rows, "v": rows}
    )
    torch.export.save(program, tmp_path / "net.pt2")
    swapped = {"v": "v", "x": ["a", "b", "c"]}
    columns = run(loaded(step(str(tmp_path / "net.pt2"), swapped, OUTPUTS)))
    expected = module.get_submodule("last")(torch.tensor(TABLE["v"].to_pylist()))[:, 0]
    np.testing.assert_allclose(columns["value"].to_numpy(), expected.detach().numpy(), atol=1e-6)
    with pytest.raises(ModelError, match=r"model\.inputs: .* takes x, v, not x: name all of them"):
        loaded(step(str(tmp_path / "net.pt2"), {"x": ["a", "b", "c"]}, OUTPUTS))


def test_a_null_names_its_input_and_a_text_column_is_the_jobs_fault(tmp_path: Path) -> None:
    (tmp_path / "same2.py").write_text(
        "import torch\nclass Same(torch.nn.Module):\n    def forward(self, x):\n        return x\n"
    )
    engine = loaded(step("same2:Same", {"x": "a"}, {"y": "y"}), [str(tmp_path)])
    with pytest.raises(TypeError, match="input x is null"):
        engine.prepare(pa.table({"a": pa.array([1.0, None])}))
    with pytest.raises(TypeError, match="input x is null"):
        engine.prepare(pa.table({"a": pa.array([[1.0, None]], pa.list_(pa.float32(), 2))}))
    with pytest.raises(ModelError, match=r"model\.inputs\.x: .* not string"):
        engine.prepare(pa.table({"a": ["t"]}))


def test_an_exported_program_of_one_batch_size_is_refused(tmp_path: Path) -> None:
    export(Exported(torch.nn.Linear(2, 1)), tmp_path / "one.pt2", torch.randn(4, 2), dynamic=False)
    with pytest.raises(ModelError, match=r"input x has the fixed shape \(4, 2\).*Dim\('rows'\)"):
        loaded(step(str(tmp_path / "one.pt2"), {"x": "v"}, {"y": "y"}))


def test_a_program_that_needs_two_rows_takes_one(tmp_path: Path) -> None:
    module = Exported(torch.nn.Linear(2, 1))
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(module, (torch.randn(4, 2),), dynamic_shapes=({0: rows},))
    torch.export.save(program, tmp_path / "two.pt2")
    engine = loaded(step(str(tmp_path / "two.pt2"), {"x": "v"}, {"y": "y"}))
    whole = run(engine)["y"]
    alone = run(engine, rows=slice(3, 4))["y"]
    assert len(alone) == 1
    assert alone[0].as_py() == pytest.approx(whole[3].as_py(), abs=1e-6)


class Explodes:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("suffix", ["pt", "ts", "torchscript"])
def test_a_pickle_is_never_loaded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    torch.save(Explodes(tmp_path / "trace"), path)
    for content in (None, pickle.dumps(Explodes(tmp_path / "trace"))):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(
            ModelError, match=r"no TorchScript file\. A state dict or a pickled module goes under options\.weights"
        ):
            loaded(step(str(path), {"x": "v"}, {"y": "y"}))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "inside", ["data/sample_inputs/model.pt", "data/weights/model.pt", "data/constants/opaque_obj_0", "second"]
)
def test_an_exported_program_with_a_pickle_inside_is_refused(tmp_path: Path, inside: str) -> None:
    good, bad = tmp_path / "good.pt2", tmp_path / "bad.pt2"
    export(Exported(torch.nn.Linear(2, 1)), good, torch.randn(4, 2))
    torch.save(Explodes(tmp_path / "trace"), tmp_path / "pickle")
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            if not name.endswith(inside):
                target.writestr(name.replace("good", "bad"), source.read(name))
        target.writestr(f"bad/{inside}", (tmp_path / "pickle").read_bytes())
    with pytest.raises(ModelError, match=r"run code|pickled object"):
        loaded(step(str(bad), {"x": "v"}, {"y": "y"}))
    assert not (tmp_path / "trace").exists()


def test_pickled_weights_in_an_exported_program_are_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pt2", tmp_path / "bad.pt2"
    export(Exported(torch.nn.Linear(2, 1)), good, torch.randn(4, 2))
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data.replace(b'"use_pickle": false', b'"use_pickle": true'))
    with pytest.raises(ModelError, match=r"pickled tensors \(.*weight"):
        loaded(step(str(bad), {"x": "v"}, {"y": "y"}))


@pytest.mark.parametrize("content", [b"junk", b""])
def test_a_file_that_is_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "junk.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"no archive of torch\.export"):
        loaded(step(str(tmp_path / "junk.pt2"), {"x": "v"}, {"y": "y"}))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = net(tmp_path).state_dict()
    state["other.bias"] = state.pop("last.bias")
    save_file(state, tmp_path / "w.safetensors")
    what = step("nets:Net", INPUTS, OUTPUTS, weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(ModelError, match=r"missing keys: last\.bias; unexpected keys: other\.bias"):
        loaded(what, [str(tmp_path)])
    with pytest.raises(ModelError, match="size mismatch"):
        loaded(what.model_copy(update={"options": {**what.options, "init": {"width": 5}}}), [str(tmp_path)])
    with pytest.raises(ModelError, match=r"model\.options\.init: .*depth"):
        loaded(what.model_copy(update={"options": {**what.options, "init": {"depth": 5}}}), [str(tmp_path)])
    with pytest.raises(ModelError, match=r"not given, and doesn't fit nets:Net: missing keys: first"):
        loaded(step("nets:Net", INPUTS, OUTPUTS), [str(tmp_path)])


def test_another_number_of_outputs_than_named_is_the_jobs_fault(tmp_path: Path) -> None:
    save_file(net(tmp_path).state_dict(), tmp_path / "w.safetensors")
    what = step("nets:Net", INPUTS, {"hidden": "h"}, weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(ModelError, match="gives 3 outputs, and the step names 1"):
        run(loaded(what, [str(tmp_path)]))


def test_an_output_that_is_not_one_value_per_row_is_the_models_fault(tmp_path: Path) -> None:
    (tmp_path / "total.py").write_text(
        "import torch\nclass Total(torch.nn.Module):\n    def forward(self, x):\n        return x.sum()\n"
    )
    with pytest.raises(ModelError, match="a single number, not one per row"):
        run(loaded(step("total:Total", {"x": "a"}, {"y": "y"}), [str(tmp_path)]))


@pytest.mark.parametrize(
    ("uri", "options", "message"),
    [
        ("{0}/none.pt2", {}, r"model\.uri: there is no file"),
        ("{0}/net.onnx", {}, r"model\.uri: the torch engine loads \.pt2"),
        ("{0}/net.pt2", {"weights": "/w.safetensors"}, r"model\.options\.weights: goes with a uri module:Class"),
        ("nets:Net", {"weigths": "x"}, r"model\.options\.weigths: there is no such option; did you mean weights"),
        ("nets:Net", {"weights": "{0}/w.bin"}, r"model\.options\.weights: there is no file"),
        ("nets:Net", {"weights": "w.safetensors"}, r"model\.options\.weights: .*absolute path"),
        ("nets:Net", {"init": 3}, r"model\.options\.init: Input should be a valid dict"),
    ],
)
def test_a_wrong_step_is_found_when_planning(tmp_path: Path, uri: str, options: dict[str, Any], message: str) -> None:
    net(tmp_path)
    given = {k: v.replace("{0}", str(tmp_path)) if isinstance(v, str) else v for k, v in options.items()}
    what = step(uri.replace("{0}", str(tmp_path)), INPUTS, OUTPUTS, **given)
    with pytest.raises(ModelError, match=message):
        check(what, [str(tmp_path)])


def test_the_identity_names_weights_and_versions(tmp_path: Path) -> None:
    save_file(net(tmp_path).state_dict(), tmp_path / "w.safetensors")
    what = step("nets:Net", INPUTS, OUTPUTS, weights=str(tmp_path / "w.safetensors"))
    identity = identify(what, [str(tmp_path)])
    assert set(identity.files) == {"nets.py", "weights/w.safetensors"}
    assert identity.packages["torch"] == torch.__version__


def test_a_script_that_takes_more_inputs_than_the_step_names_is_refused_at_load(tmp_path: Path) -> None:
    torch.jit.script(net(tmp_path)).save(str(tmp_path / "net.pt"))
    with pytest.raises(ModelError, match="takes x, v, not x: name all of them"):
        loaded(step(str(tmp_path / "net.pt"), {"x": "v"}, OUTPUTS))


def test_threads_that_call_a_module_at_a_time_share_its_parameters_and_nothing_else() -> None:
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from batchinfer.engines.replicas import Replicas

    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).eval()
    replicas = Replicas(module, "cpu", 1)
    assert replicas.here() is replicas.here() is module
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(replicas.here).result()
        assert pool.submit(replicas.here).result() is other
        assert pool.submit(torch.get_num_threads).result() == 1
    assert other is not module
    assert [p.data_ptr() for p in other.parameters()] == [p.data_ptr() for p in module.parameters()]
    assert other[1].running_mean.data_ptr() != module[1].running_mean.data_ptr()
    script = torch.jit.script(module)
    replicas = Replicas(script, "cpu", 1)
    assert replicas.here() is script
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(replicas.here).result() is script


def test_a_module_that_no_second_thread_can_have_a_copy_of_says_so(tmp_path: Path) -> None:
    code = "import threading, torch\nclass {}(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n        {}\n"
    code += "        self.first = torch.nn.Linear(3, 2)\n    def forward(self, x):\n        return self.first(x)\n"
    (tmp_path / "locked_nets.py").write_text(code.format("Locked", "self.lock = threading.Lock()"))
    (tmp_path / "open_nets.py").write_text(code.format("Open", "self.lock = None"))
    save_file({"first.weight": torch.ones(2, 3), "first.bias": torch.zeros(2)}, tmp_path / "w.safetensors")
    for uri, several in (("locked_nets:Locked", False), ("open_nets:Open", True)):
        what = step(uri, {"x": ["a", "b", "c"]}, {"y": "y"}, weights=str(tmp_path / "w.safetensors"))
        assert open_engine(what, [str(tmp_path)]).load("cpu", "fp32", 1).side_by_side is several


def test_threads_share_a_module_that_is_compiled_as_a_copy_would_be_compiled_again() -> None:
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from batchinfer.engines.replicas import Replicas

    replicas = Replicas(module := torch.nn.Linear(2, 2), "cpu", 1, compiled=True)
    assert replicas.here() is module
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(replicas.here).result() is module


def test_a_module_on_a_cpu_has_no_stream_to_enter() -> None:
    import torch

    from batchinfer.engines.replicas import Replicas

    with Replicas(torch.nn.Linear(2, 2), "cpu", 1).stream() as entered:
        assert entered is None
