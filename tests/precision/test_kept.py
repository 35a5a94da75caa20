"""A large model is quantized once, kept, and read by whoever comes after: the same numbers, and no memory for the full ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from batchinfer.engines import registry
from batchinfer.precision import recipes
from batchinfer.precision.kept import LEAST_BYTES, kept
from batchinfer.precision.protocol import Applied
from batchinfer.precision.tables import LEAST
from tests.engines.models import loaded, run, texts, tiny, vectors
from tests.engines.models import step as text_step

ROWS, WIDTH = LEAST // 32, 32
IDS = torch.tensor([[0, 1, 2, ROWS - 1], [7, 7, 0, ROWS // 2]])


class Texts(torch.nn.Module):
    """Two names for one table, a layer of another's weights, a parameter of its own, and a buffer that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.words = self.again = torch.nn.Embedding(ROWS, WIDTH)
        self.first = torch.nn.Linear(WIDTH, WIDTH)
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.same = torch.nn.LayerNorm(WIDTH)
        self.same.weight = self.norm.weight
        self.shift = torch.nn.Parameter(torch.randn(WIDTH))
        self.register_buffer("factor", torch.full((WIDTH,), 1.5), persistent=False)
        self.register_buffer("mean", torch.randn(WIDTH))

    def forward(self, ids: torch.Tensor) -> Any:
        vectors = self.words(ids) + self.again(ids.flip(0))
        return self.same(self.norm(self.first(vectors))) * self.factor + self.shift - self.mean


def texts_model() -> Texts:
    torch.manual_seed(5)
    return Texts().eval()


class Builder:
    """Quantizes a model, and counts how often."""

    def __init__(self, recipe: str) -> None:
        self.recipe, self.built = recipe, 0

    def __call__(self) -> Applied:
        self.built += 1
        return recipes.apply(self.recipe, texts_model(), "cpu")

    def kept(self, **made_of: str) -> Applied:
        return kept({"model": "1", **made_of}, self.recipe, self, skeleton)


def skeleton() -> Texts:
    with torch.device("meta"):
        return Texts().eval()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BATCHINFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("recipe", ["int8-weight", "int4-weight", "int8"])
def test_what_was_kept_is_what_was_quantized(recipe: str, cache: Path) -> None:
    fresh, build = recipes.apply(recipe, texts_model(), "cpu"), Builder(recipe)
    first, second = build.kept(), build.kept()
    assert build.built == 1
    for each in (first, second):
        assert (each.dtype, each.told(), each.smallest) == (fresh.dtype, fresh.told(), fresh.smallest)
        assert not any(tensor.is_meta for tensor in [*each.module.parameters(), *each.module.buffers()])
        assert not any(parameter.requires_grad for parameter in each.module.parameters())
        with torch.inference_mode():
            # Of a compiled one, what is compiled: it takes long, and is another test's.
            assert torch.equal(each.module.forward(IDS), fresh.module.forward(IDS))


def test_tensors_of_several_names_are_kept_once(cache: Path) -> None:
    module = Builder("int8-weight").kept().module
    assert module.words.rows.data_ptr() == module.again.rows.data_ptr()
    assert module.norm.weight.data_ptr() == module.same.weight.data_ptr()
    (file,) = cache.glob("artefacts/*/model.safetensors")
    assert file.stat().st_size < LEAST + 2 * ROWS + 100_000


def test_another_model_or_recipe_is_another_file(cache: Path) -> None:
    build = Builder("int8-weight")
    build.kept()
    build.kept(model="2")
    Builder("int4-weight").kept()
    assert build.built == 2
    assert len(list(cache.glob("artefacts/*/model.safetensors"))) == 3


@pytest.mark.parametrize("name", ["model.safetensors", "applied.json", "artefact.json"])
def test_what_is_damaged_is_built_again(cache: Path, name: str) -> None:
    build = Builder("int8-weight")
    with torch.inference_mode():
        expected = build.kept().module(IDS)
    (file,) = cache.glob(f"artefacts/*/{name}")
    file.write_bytes(file.read_bytes()[:-30])
    with torch.inference_mode():
        assert torch.equal(build.kept().module(IDS), expected)
    assert build.built == 2
    build.kept()
    assert build.built == 2


def test_a_whole_artefact_of_another_model_under_this_ones_name_is_built_again(cache: Path) -> None:
    build = Builder("int8-weight")
    build.kept()
    (ours,) = cache.glob("artefacts/*")
    Builder("int4-weight").kept()
    (theirs,) = set(cache.glob("artefacts/*")) - {ours}
    ours.rename(cache / "aside")
    theirs.rename(ours)
    assert build.kept().module.first.weight.__class__.__name__ == "Int8Tensor"
    assert build.built == 2


@pytest.mark.slow
def test_processes_that_build_at_a_time_leave_one_whole_artefact(cache: Path) -> None:
    code = (
        "import torch; from tests.precision.test_kept import Builder, IDS; build = Builder('int8-weight'); "
        "torch.set_num_threads(1); print(float(build.kept().module(IDS).float().sum()))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {each.communicate(timeout=120)[0] for each in running}
    assert [each.returncode for each in running] == [0, 0, 0]
    assert len(answers) == 1
    assert len(list((cache / "artefacts").iterdir())) == 1
    build = Builder("int8-weight")
    build.kept()
    assert build.built == 0


def test_a_large_encoder_is_kept_and_a_small_one_is_not(tmp_path: Path, cache: Path) -> None:
    table = pa.table({"t": texts(20)})
    found: dict[str, list[Any]] = {}
    for name, types in (("small", 2), ("large", LEAST_BYTES // (16 * 4))):
        of = text_step(
            tiny(tmp_path / name, "BertModel", ["a"], type_vocab_size=types), "embedding", {"embedding": "e"}
        )
        found[name] = [vectors(run(loaded(of, "int8-weight"), table)["embedding"]) for _ in range(2)]
        assert len(list(cache.glob("artefacts/*"))) == (name == "large")
        np.testing.assert_array_equal(*found[name])
    (file,) = cache.glob("artefacts/*/model.safetensors")
    assert file.stat().st_size < LEAST_BYTES / 3
    exact = vectors(run(loaded(of, "fp32"), table)["embedding"])
    rough = found["large"][1]
    near = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert 0.99 < near.min() < 0.99999
    engine = registry.open_engine(of)
    assert engine.load("cpu", "int8-weight", 1).applied == {"quantized_layers": 14, "layers": 14, "compiled": False}
