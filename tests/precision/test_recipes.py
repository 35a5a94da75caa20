"""What each recipe does to a module, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest
import torch

from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.precision import recipes
from batchinfer.precision.artefacts import cache_folder
from batchinfer.precision.layers import count_quantized


class Tower(torch.nn.Module):
    """An embedding, two layers, and one whose sizes are no multiples of anything."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 64)
        self.first = torch.nn.Linear(64, 96)
        self.norm = torch.nn.LayerNorm(96)
        self.last = torch.nn.Linear(96, 33)
        self.odd = torch.nn.Linear(33, 7)

    def forward(self, ids: torch.Tensor) -> Any:
        return self.odd(self.last(self.norm(self.first(self.table(ids)))).relu())


def tower() -> Tower:
    torch.manual_seed(5)
    return Tower().eval()


def kinds(module: Tower) -> list[str]:
    layers = (module.table, module.first, module.last, module.odd)
    return [type(layer.weight).__name__ for layer in layers]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1).min())


def test_every_precision_of_the_job_file_has_a_recipe_and_none_has_two() -> None:
    annotation = Step.model_fields["precision"].annotation
    assert annotation is not None
    assert annotation.__args__ == ("auto", *recipes.RECIPES)


def test_bits_tell_the_gate_which_precisions_are_cheap() -> None:
    assert {name: recipes.bits(name) for name in recipes.RECIPES} == {
        "fp32": 32,
        "tf32": 16,
        "bf16": 16,
        "fp16": 16,
        "int8": 8,
        "int8-weight": 8,
        "int4-weight": 4,
        "fp8": 8,
        "fp32-compiled": 32,
        "bf16-compiled": 16,
    }
    assert recipes.bits("native") == 32


def test_an_unknown_precision_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="no precision int3: use one of fp32, tf32, bf16"):
        recipes.apply("int3", tower(), "cpu")
    with pytest.raises(ModelError, match="no precision int3"):
        recipes.bits("int3")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_floating_recipes_change_all_numbers_alike(name: str, dtype: torch.dtype) -> None:
    applied = recipes.apply(name, tower(), "cpu")
    assert {p.dtype for p in applied.module.parameters()} == {dtype}
    assert applied.dtype in ({dtype, None} if name == "fp32" else {dtype})
    assert (applied.told(), applied.smallest) == ({}, 1)


def test_fp32_leaves_a_module_as_it_was_stored() -> None:
    applied = recipes.apply("fp32", tower().half(), "cpu")
    assert {p.dtype for p in applied.module.parameters()} == {torch.float16}


def test_int8_weight_quantizes_every_linear_layer_and_nothing_else() -> None:
    ids, exact = torch.arange(50), tower()
    applied = recipes.apply("int8-weight", tower(), "cpu")
    assert kinds(applied.module) == ["Parameter", "Int8Tensor", "Int8Tensor", "Int8Tensor"]
    assert applied.told() == {"quantized_layers": 3, "layers": 3, "compiled": False}
    assert applied.dtype == applied.module.norm.weight.dtype == torch.bfloat16
    with torch.inference_mode():
        assert 0.999 < cosine(applied.module(ids), exact(ids)) < 1


def test_int4_weight_leaves_a_layer_that_is_no_whole_number_of_groups_and_says_so() -> None:
    ids, exact = torch.arange(50), tower()
    applied = recipes.apply("int4-weight", tower(), "cpu")
    assert kinds(applied.module) == ["Parameter", "IntxUnpackedToInt8Tensor", "IntxUnpackedToInt8Tensor", "Parameter"]
    assert applied.told() == {"quantized_layers": 2, "layers": 3, "compiled": False}
    with torch.inference_mode():
        assert 0.9 < cosine(applied.module(ids), exact(ids)) < 0.9999


def test_a_recipe_that_quantizes_no_layer_is_refused() -> None:
    with pytest.raises(ModelError, match=r"int4-weight: none of the model's 1 linear layers .* a multiple of 32\)"):
        recipes.apply("int4-weight", torch.nn.Sequential(torch.nn.Linear(33, 7)), "cpu")
    with pytest.raises(ModelError, match="int8-weight: none of the model's 0 linear layers"):
        recipes.apply("int8-weight", torch.nn.Sequential(torch.nn.Conv1d(3, 3, 1)), "cpu")


def test_int8_is_to_be_compiled_and_then_wants_two_rows() -> None:
    applied = recipes.apply("int8", tower(), "cpu")
    assert applied.told() == {"quantized_layers": 3, "layers": 3, "compiled": True}
    assert (applied.smallest, applied.dtype) == (2, torch.float32)
    assert applied.module._compiled_call_impl is not None


@pytest.mark.parametrize(
    ("name", "device", "reason"),
    [
        ("tf32", "cpu", "matrix units, which cpu has none of"),
        ("fp8", "cpu", "compute capability 8.9 or later, which cpu has none of"),
        ("fp8", "mps", "which mps has none of"),
        ("int8", "mps", "kernels for cpu and cuda, not for mps"),
        ("int4-weight", "mps", "not for mps"),
        ("bf16-compiled", "mps", "compiled for cpu and cuda, not for mps"),
    ],
)
def test_what_a_device_cannot_do_is_refused_with_the_reason_and_what_it_can(
    name: str, device: str, reason: str
) -> None:
    obstacle = recipes.recipe(name).obstacle(device)
    assert obstacle is not None
    assert reason in obstacle
    with pytest.raises(ModelError, match="use one of fp32, bf16, fp16"):
        recipes.apply(name, tower(), device)


def test_cuda_has_no_obstacle_that_is_seen_without_torch() -> None:
    assert recipes.possible("cuda") == recipes.possible("cuda:1") == tuple(recipes.RECIPES)


def test_int8_needs_a_compiler_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert recipes.recipe("int8").obstacle("cpu") == (
        "int8 is compiled, and there is no C++ compiler (no-such-compiler) on this machine"
    )
    assert recipes.possible("cpu") == ("fp32", "bf16", "fp16", "int8-weight", "int4-weight")


@pytest.mark.parametrize(("name", "dtype"), [("fp32-compiled", None), ("bf16-compiled", torch.bfloat16)])
def test_a_compiled_recipe_has_the_numbers_of_its_floating_one_and_wants_two_rows(name: str, dtype: Any) -> None:
    applied = recipes.apply(name, tower(), "cpu")
    assert {p.dtype for p in applied.module.parameters()} == {dtype or torch.float32}
    assert (applied.dtype, applied.told(), applied.smallest) == (dtype, {"compiled": True}, 2)
    assert applied.module._compiled_call_impl is not None


@pytest.mark.parametrize(
    ("told", "kept"),
    [(None, "ours"), (f"{tempfile.gettempdir()}/torchinductor_anna", "ours"), ("/data/inductor", "/data/inductor")],
    ids=["nothing said", "torch's own place", "the user's"],
)
def test_what_is_compiled_is_kept_with_the_artefacts_unless_the_user_says_where(
    told: str | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", told or "")
    recipes.apply("fp32-compiled", tower(), "cpu")
    ours = str(cache_folder() / "inductor")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == (ours if kept == "ours" else kept)


def test_a_module_of_float_layers_counts_as_unquantized() -> None:
    assert count_quantized(tower()) == 0


def test_obstacles_need_no_torch_and_torchao_says_nothing_while_it_loads() -> None:
    code = (
        "import sys; from batchinfer.precision import recipes; recipes.possible('cuda'); print('torch' in sys.modules); "
        "import torch; recipes.apply('int8-weight', torch.nn.Linear(8, 8).eval(), 'cpu')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
