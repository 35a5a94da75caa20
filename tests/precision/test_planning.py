"""What is refused when a job is planned, and what is listed as possible."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from batchinfer.engines import checks, registry
from batchinfer.engines.device import foresee_device
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.spec import Resources
from batchinfer.job.steps import Step
from batchinfer.precision import recipes
from tests.engines.models import MINILM
from tests.engines.models import step as text_step
from tests.precision.towers import step, tower


def without_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torchao" else found(name, *a))


def weights(folder: Path) -> Path:
    torch.save(tower(folder).state_dict(), folder / "w.pt")
    return folder / "w.pt"


def test_the_precisions_of_a_class_are_those_of_the_device(tmp_path: Path) -> None:
    of = step(weights(tmp_path))
    quantized, compiled = ("int8", "int8-weight", "int4-weight"), ("fp32-compiled", "bf16-compiled")
    assert registry.precisions(of, "cpu") == ("fp32", "bf16", "fp16", *quantized, *compiled)
    assert registry.precisions(of, "cuda") == tuple(recipes.RECIPES)
    assert registry.precisions(of, "mps") == ("fp32", "bf16", "fp16")


def test_a_graph_has_the_precisions_that_exchange_no_layers_and_compile_nothing() -> None:
    assert registry.precisions(step(Path(), uri="/models/net.pt2"), "cuda") == ("fp32", "tf32", "bf16", "fp16")


def test_a_class_of_the_python_engine_has_no_precision_but_its_own() -> None:
    of = Step.model_validate({"engine": "python", "uri": "m:C", "inputs": {"a": "a"}, "outputs": {"b": "b"}})
    assert registry.precisions(of, "cuda") == ("native",)


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("tf32", "cpu", r"^model\.precision: tf32 is a rounding .*; possible: fp32, bf16, fp16, int8, int8-weight, int4-weight, fp32-comp.*$"),
        ("fp8", "cpu", r"^model\.precision: fp8 needs .* 8\.9 or later, which cpu has none of; possible: fp32, bf16"),
        ("int8", "mps", r"not for mps; possible: fp32, bf16, fp16$"),
    ],
)  # fmt: skip
def test_what_the_device_cannot_do_is_refused_when_planning(
    tmp_path: Path, precision: str, device: str, message: str
) -> None:
    of = step(weights(tmp_path), precision)
    with pytest.raises(ModelError, match=message):
        checks.check(of, [str(tmp_path)], device)
    checks.check(of, [str(tmp_path)], "cuda")
    checks.check(of, [str(tmp_path)], None)


@pytest.mark.parametrize("suffix", ["pt2", "pt"])
def test_a_graph_is_not_quantized_and_the_refusal_says_what_to_do(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net.{suffix}"
    path.touch()
    message = r"int8 exchanges layers, and .* is a graph without any: give the class, uri: module:Class with .*possible: fp32, bf16, fp16$"
    with pytest.raises(ModelError, match=message):
        checks.check(step(Path(), "int8", uri=str(path)), [], "cpu")
    with pytest.raises(ModelError, match=r"bf16-compiled compiles the code of a class, and .* is a graph without any"):
        checks.check(step(Path(), "bf16-compiled", uri=str(path)), [], "cpu")
    checks.check(step(Path(), "fp16", uri=str(path)), [], "cpu")


def test_the_version_of_what_quantizes_is_part_of_the_identity_where_it_does(tmp_path: Path) -> None:
    quantized, plain = (step(weights(tmp_path), name) for name in ("int8-weight", "bf16"))
    assert "torchao" in registry.identify(quantized, [str(tmp_path)]).packages
    assert "torchao" not in registry.identify(plain, [str(tmp_path)]).packages


def test_without_torchao_what_needs_it_names_the_extra_and_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = step(weights(tmp_path), "int8-weight")
    without_torchao(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"model\.precision: int8-weight needs .* 'batchinfer\[quantization\]'"):
        checks.check(of, [str(tmp_path)], "cpu")
    assert registry.precisions(of, "cpu") == ("fp32", "bf16", "fp16", "fp32-compiled", "bf16-compiled")


@pytest.mark.parametrize(
    ("keys", "gpus", "expected"),
    [
        ({}, "", "cpu"),
        ({}, "0,1", "cuda"),
        ({"gpus": 0}, "0", "cpu"),
        ({"gpus": 0.5}, "", "cuda"),
        ({"address": "auto"}, "0", None),
        ({"address": "auto", "gpus": 0}, "0", "cpu"),
    ],
)
def test_the_device_is_foreseen_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], gpus: str, expected: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert foresee_device(Resources.model_validate(keys)) == expected


def test_an_apple_gpu_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert foresee_device(Resources()) == "mps"


def test_planning_a_quantized_job_imports_neither_torch_nor_torchao() -> None:
    of = text_step(MINILM, "embedding", {"embedding": "e"}).model_copy(update={"precision": "int8-weight"})
    code = (
        "import sys; from batchinfer.engines import checks; from batchinfer.job.spec import Step; "
        f"checks.check(Step.model_validate_json({of.model_dump_json()!r}), [], 'cpu'); "
        "print([name for name in ('torch', 'torchao') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_importing_a_models_libraries_says_nothing_of_libraries_for_other_devices(tmp_path: Path) -> None:
    of = text_step(str(tmp_path), "embedding", {"embedding": "e"})
    code = (
        "import sys; from batchinfer.engines import registry; from batchinfer.job.spec import Step; "
        f"registry.import_libraries(Step.model_validate_json({of.model_dump_json()!r})); assert 'torchao' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torchao" not in done.stderr
