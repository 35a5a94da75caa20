"""Checkpoints that come quantized, or trained for it, load and run as they are."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from batchinfer.engines import checks, registry
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.steps import Step
from batchinfer.precision import recipes
from batchinfer.precision.layers import load_torchao
from tests.engines.models import run, texts, tiny, vectors
from tests.engines.models import step as text_step
from tests.precision.towers import answers, rows, step, tower


def opened(of: Step, folder: Path, precision: str) -> tuple[Any, Any]:
    engine = registry.open_engine(of, [str(folder)])
    return engine, engine.load("cpu", precision, 1)


@pytest.mark.parametrize(("name", "layers"), [("int8-weight", 3), ("int4-weight", 2)])
def test_a_quantized_state_dict_runs_as_the_module_that_it_is_of(tmp_path: Path, name: str, layers: int) -> None:
    applied = recipes.apply(name, tower(tmp_path), "cpu")
    torch.save(applied.module.state_dict(), tmp_path / "w.pt")
    of, table = step(tmp_path / "w.pt"), rows(5)
    checks.check(of, [str(tmp_path)], "cpu")
    assert registry.precisions(of, "cpu") == ("native",)
    engine, description = opened(of, tmp_path, "native")
    assert description.precision == "native"
    assert description.applied == {"quantized_layers": layers, "layers": 3, "compiled": False}
    with torch.inference_mode():
        x = torch.from_numpy(table.column("x").combine_chunks().flatten().to_numpy().reshape(5, 64).copy())
        expected = applied.module(x.to(applied.dtype))
    assert torch.equal(answers(engine, table), expected.float())


def test_a_checkpoint_whose_layers_round_their_inputs_is_compiled(tmp_path: Path) -> None:
    torch.save(recipes.apply("int8", tower(tmp_path), "cpu").module.state_dict(), tmp_path / "w.pt")
    _, description = opened(step(tmp_path / "w.pt"), tmp_path, "native")
    assert description.applied == {"quantized_layers": 3, "layers": 3, "compiled": True}


def test_a_quantized_checkpoint_is_not_quantized_again(tmp_path: Path) -> None:
    torch.save(recipes.apply("int8-weight", tower(tmp_path), "cpu").module.state_dict(), tmp_path / "w.pt")
    of = step(tmp_path / "w.pt", "int4-weight")
    with pytest.raises(
        ModelError, match=r"model\.precision: the model comes quantized \(by torchao\), .* leave it at auto"
    ):
        checks.check(of, [str(tmp_path)], "cpu")
    for name in ("fp32", "bf16", "int8-weight"):
        with pytest.raises(ModelError, match=f"comes quantized, and can't be brought to {name}"):
            opened(of, tmp_path, name)


def test_a_quantized_checkpoint_without_torchao_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(recipes.apply("int8-weight", tower(tmp_path), "cpu").module.state_dict(), tmp_path / "w.pt")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torchao" else found(name, *a))
    with pytest.raises(MissingExtraError, match=r"the quantized model needs .*batchinfer\[quantization\]"):
        checks.check(step(tmp_path / "w.pt"), [str(tmp_path)], "cpu")


def test_a_quantized_state_dict_of_another_module_is_refused(tmp_path: Path) -> None:
    state = recipes.apply("int8-weight", tower(tmp_path), "cpu").module.state_dict()
    state["last.weight"] = state["first.weight"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(
        ModelError, match=r"(?s)model\.options\.weights: .* doesn't fit .*size mismatch for last\.weight"
    ):
        opened(step(tmp_path / "w.pt"), tmp_path, "native")


def test_weights_trained_for_quantization_give_what_their_converted_form_gives(tmp_path: Path) -> None:
    ao = load_torchao("test")
    from torchao.quantization.qat import QATConfig

    base = ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=ao.PerGroup(32))
    multiples: Any = lambda module, _: isinstance(module, torch.nn.Linear) and module.in_features % 32 == 0  # noqa: E731
    module = tower(tmp_path)
    ao.quantize_(module, QATConfig(base, step="prepare"), filter_fn=multiples)
    torch.save(module.state_dict(), tmp_path / "prepared.pt")
    ao.quantize_(module, QATConfig(base, step="convert"), filter_fn=multiples)
    torch.save(module.state_dict(), tmp_path / "converted.pt")
    prepared, _ = opened(step(tmp_path / "prepared.pt"), tmp_path, "int4-weight")
    converted, description = opened(step(tmp_path / "converted.pt"), tmp_path, "native")
    assert description.applied["quantized_layers"] == 2
    assert torch.equal(answers(prepared, rows(9)), answers(converted, rows(9)))


@pytest.fixture(scope="module")
def quantized_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ao = load_torchao("test")
    import transformers

    plain, folder = (tmp_path_factory.mktemp(name) for name in ("plain", "quantized"))
    tiny(plain, "BertModel", ["a"])
    config = transformers.TorchAoConfig(ao.Int8WeightOnlyConfig())
    model = transformers.AutoModel.from_pretrained(plain, dtype=torch.bfloat16, quantization_config=config)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(plain / name, folder / name)
    return folder


def test_a_folder_of_transformers_that_was_saved_quantized_runs_as_it_is(quantized_folder: Path) -> None:
    of = text_step(str(quantized_folder), "embedding", {"embedding": "e"})
    checks.check(of, [], "cpu")
    assert registry.precisions(of, "cpu") == ("native",)
    engine, description = opened(of, quantized_folder, "native")
    assert (description.precision, description.applied["quantized_layers"]) == ("native", 13)
    assert vectors(run(engine, pa.table({"t": texts(12)}))["embedding"]).shape == (12, 16)
    asked = of.model_copy(update={"precision": "bf16"})
    with pytest.raises(ModelError, match=r"comes quantized \(by torchao\)"):
        checks.check(asked, [], "cpu")
