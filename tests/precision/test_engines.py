"""The engines at each recipe: real MiniLM, and modules that are compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from batchinfer.engines import registry
from batchinfer.errors import ModelError
from batchinfer.precision.compiled import compiling
from tests.engines.models import MINILM, loaded, run, texts, tiny, vectors
from tests.engines.models import step as text_step
from tests.precision.towers import answers, rows, step, tower


@cache
def embeddings(precision: str) -> Any:
    engine = loaded(text_step(MINILM, "embedding", {"embedding": "e"}), precision)
    return vectors(run(engine, pa.table({"t": texts(40)}))["embedding"])


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("fp16", 0.9999, 1), ("int8-weight", 0.995, 0.99999), ("int4-weight", 0.8, 0.99)]
)
def test_minilm_agrees_with_itself_at_fewer_bits(precision: str, least: float, most: float) -> None:
    exact, rough = embeddings("fp32"), embeddings(precision)
    cosines = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert least <= cosines.mean() <= most
    assert cosines.mean() < 1


def test_minilm_tells_how_many_of_its_layers_are_quantized() -> None:
    engine = registry.open_engine(text_step(MINILM, "embedding", {"embedding": "e"}))
    assert engine.load("cpu", "int8-weight", 1).applied == {"quantized_layers": 38, "layers": 38, "compiled": False}
    assert engine.load("cpu", "bf16", 1).applied == {}


@pytest.mark.slow
def test_a_compiled_class_takes_any_number_of_rows_and_agrees_with_fp32(tmp_path: Path) -> None:
    torch.save(tower(tmp_path).state_dict(), tmp_path / "w.pt")
    exact, rough = (registry.open_engine(step(tmp_path / "w.pt"), [str(tmp_path)]) for _ in range(2))
    exact.load("cpu", "fp32", 1)
    assert rough.load("cpu", "int8", 1).applied == {"quantized_layers": 3, "layers": 3, "compiled": True}
    for count in (5, 1, 12):
        near = torch.nn.functional.cosine_similarity(answers(exact, rows(count)), answers(rough, rows(count)))
        assert len(near) == count
        assert 0.99 < float(near.min()) < 0.9999999


@pytest.mark.slow
def test_a_compiled_encoder_is_compiled_once_while_it_is_loaded(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    of = text_step(tiny(tmp_path, "BertModel", ["a"]), "embedding", {"embedding": "e"})
    table, exact = pa.table({"t": texts(20)}), loaded(of)
    counters.clear()
    rough = loaded(of, "int8")
    compiled = counters["stats"]["unique_graphs"]
    ours, theirs = (vectors(run(engine, table, size=7)["embedding"]) for engine in (rough, exact))
    assert compiled == counters["stats"]["unique_graphs"] == 1
    one = vectors(run(rough, table.slice(11, 1))["embedding"])
    assert one.shape == (1, 16)
    assert (ours * theirs).sum(1).min() / np.linalg.norm(ours, axis=1).max() / np.linalg.norm(
        theirs, axis=1
    ).max() > 0.5


@pytest.mark.slow
def test_threads_that_call_a_compiled_encoder_at_a_time_share_what_was_compiled(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    of = text_step(tiny(tmp_path, "BertModel", ["a"]), "embedding", {"embedding": "e"})
    table = pa.table({"t": texts(40)})
    counters.clear()
    engine = loaded(of, "fp32-compiled")
    wanted = vectors(run(engine, table, size=7)["embedding"])
    with ThreadPoolExecutor(2) as pool:
        given = list(pool.map(lambda _: vectors(run(engine, table, size=7)["embedding"]), range(6)))
    assert counters["stats"]["unique_graphs"] == 1
    assert all(np.array_equal(wanted, each) for each in given)


def test_a_compiler_that_fails_is_the_models_fault_and_an_error_of_a_row_is_the_rows() -> None:
    from torch._dynamo import exc

    with pytest.raises(ModelError, match=r"model\.precision: torch\.compile fails on this model \(Unsupported: "):  # noqa: SIM117
        with compiling("model.precision"):
            raise exc.Unsupported("a generator")
    for error in (ValueError("a row"), exc.TorchRuntimeError("sizes of a row")):
        with pytest.raises(type(error)), compiling("model.precision"):
            raise error


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_one_compiled(tmp_path: Path) -> None:
    torch.save(tower(tmp_path).state_dict(), tmp_path / "w.pt")
    code = (
        "import sys; from pathlib import Path; from tests.precision.towers import answers, rows, step; "
        "from batchinfer.engines import registry; from torch._dynamo.utils import counters; folder = Path(sys.argv[1]); "
        "engine = registry.open_engine(step(folder / 'w.pt'), [str(folder)]); engine.load('cpu', 'fp32-compiled', 1); "
        "answers(engine, rows(5)); print(counters['inductor']['fxgraph_cache_hit'] + counters['aot_autograd']['autograd_cache_hit'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment["BATCHINFER_CACHE"] = str(tmp_path / "cache")
    hits = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env=environment
        ).stdout.strip()
        for _ in range(2)
    ]
    assert hits[0] == "0"
    assert hits[1] != "0"
    assert any((tmp_path / "cache" / "inductor").iterdir())


@pytest.mark.slow
def test_a_class_compiled_at_full_precision_agrees_with_it_to_the_last_digits(tmp_path: Path) -> None:
    torch.save(tower(tmp_path).state_dict(), tmp_path / "w.pt")
    exact, compiled = (registry.open_engine(step(tmp_path / "w.pt"), [str(tmp_path)]) for _ in range(2))
    exact.load("cpu", "fp32", 1)
    assert compiled.load("cpu", "fp32-compiled", 1).applied == {"compiled": True}
    for count in (5, 1, 12):
        torch.testing.assert_close(answers(compiled, rows(count)), answers(exact, rows(count)))
