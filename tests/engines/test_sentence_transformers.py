"""Folders of sentence-transformers: vectors are those that the library gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentence_transformers
import torch
from sentence_transformers.sentence_transformer import modules

from batchinfer import Job
from batchinfer.engines.checks import check
from batchinfer.engines.pooling import ACTIVATIONS, MODES
from batchinfer.engines.registry import identify
from batchinfer.errors import ModelError
from tests.engines.models import loaded, minilm_folder, run, step, tiny, vectors

TEXTS = ["A few WORDS", "one", "", "Ünïcödé — “quotes”", "word " * 40, "a longer text of some more words, and a comma"]
HIDDEN = 16


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """Of a small random BERT."""
    tiny(tmp_path / "bert", "BertModel", ["a"])
    return tmp_path / "bert"


def saved(folder: Path, *after: Any, pooling: Any = "mean", include_prompt: bool = True, **transformer: Any) -> Path:
    """The encoder of a folder as the library saves it, with pooling and what comes after."""
    encoder = modules.Transformer(str(folder), **transformer)
    pool = modules.Pooling(HIDDEN, pooling_mode=pooling, include_prompt=include_prompt)
    made = sentence_transformers.SentenceTransformer(modules=[encoder, pool, *after], device="cpu")
    made.save(str(folder.parent / "saved"))
    return folder.parent / "saved"


def theirs(folder: Path, texts: list[str] = TEXTS) -> Any:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(texts, convert_to_numpy=True)


def ours(folder: Path, texts: list[str] = TEXTS, **options: Any) -> Any:
    what = step(str(folder), "embedding", {"embedding": "e"}, **options)
    check(what)
    return vectors(run(loaded(what), pa.table({"t": texts}))["embedding"])


def dense(given: int, gives: int, activation: Any, **more: Any) -> Any:
    torch.manual_seed(7)
    return modules.Dense(given, gives, activation_function=activation, **more)


@pytest.mark.parametrize("mode", [*MODES, ("mean", "cls"), ("max", "lasttoken", "weightedmean")])
def test_each_way_of_pooling(folder: Path, mode: Any) -> None:
    made = saved(folder, pooling=mode)
    np.testing.assert_allclose(ours(made), theirs(made), atol=1e-5)


def test_the_older_form_of_a_config(folder: Path) -> None:
    made = saved(folder, pooling=("max", "mean_sqrt_len_tokens"))
    flags = {
        "pooling_mode_max_tokens": True,
        "pooling_mode_mean_sqrt_len_tokens": True,
        "pooling_mode_mean_tokens": False,
    }
    (made / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": HIDDEN, **flags}))
    np.testing.assert_allclose(ours(made), theirs(made), atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_dense_layer_after_pooling(folder: Path, activation: str) -> None:
    made = saved(folder, dense(HIDDEN, 5, getattr(torch.nn, activation)()), modules.Normalize())
    assert ours(made).shape == (len(TEXTS), 5)
    np.testing.assert_allclose(ours(made), theirs(made), atol=1e-5)


@pytest.mark.parametrize("gives", [HIDDEN * 2, 7])
def test_layers_in_their_order_with_what_goes_in_added(folder: Path, gives: int) -> None:
    after = (
        modules.Normalize(),
        dense(2 * HIDDEN, gives, None, bias=False, use_residual=True),
        modules.Dropout(0.5),
        dense(gives, 3, torch.nn.Tanh()),
    )
    made = saved(folder, *after, pooling=("mean", "cls"))
    np.testing.assert_allclose(ours(made), theirs(made), atol=1e-5)


def test_weights_that_are_pickled(folder: Path) -> None:
    made = saved(folder, dense(HIDDEN, 5, torch.nn.Tanh()))
    layer = made / "2_Dense"
    from safetensors.torch import load_file

    torch.save(load_file(layer / "model.safetensors"), layer / "pytorch_model.bin")
    (layer / "model.safetensors").unlink()
    np.testing.assert_allclose(ours(made), theirs(made), atol=1e-5)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_is_put_before_each_text_and_pooled_or_not(folder: Path, mode: str, include: bool) -> None:
    made = saved(folder, pooling=mode, include_prompt=include)
    path = made / "config_sentence_transformers.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "prompts": {"query": "find this: "}, "default_prompt_name": "query"}))
    np.testing.assert_allclose(ours(made), theirs(made), atol=1e-5)
    assert not np.allclose(ours(made), ours(made, prompt=""), atol=1e-3)


def test_the_longest_text_is_as_long_as_the_folder_says(folder: Path) -> None:
    made = saved(folder, max_seq_length=9)
    np.testing.assert_allclose(ours(made), theirs(made), atol=1e-5)
    assert not np.allclose(ours(made), ours(made, max_length=32), atol=1e-3)


def test_texts_are_put_into_lower_case_where_the_folder_says_so(folder: Path) -> None:
    made = saved(folder)
    (made / "tokenizer_config.json").write_text(
        json.dumps({**json.loads((made / "tokenizer_config.json").read_text()), "do_lower_case": False})
    )
    tokenizer = json.loads((made / "tokenizer.json").read_text())
    (made / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": None}))
    exact = ours(made)
    path = made / "sentence_bert_config.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**told, "do_lower_case": True}))
    np.testing.assert_allclose(ours(made), theirs(made), atol=1e-5)
    assert not np.allclose(ours(made), exact, atol=1e-3)


def test_minilm() -> None:
    np.testing.assert_allclose(ours(minilm_folder()), theirs(minilm_folder()), atol=1e-5)


def test_an_openvino_graph_of_the_folder_gives_the_same(folder: Path) -> None:
    made = saved(folder, dense(2 * HIDDEN, 5, torch.nn.Tanh()), pooling=("mean", "lasttoken"))
    what = step(str(made), "embedding", {"embedding": "e"}).model_copy(update={"engine": "openvino"})
    check(what)
    graph = vectors(run(loaded(what), pa.table({"t": TEXTS}))["embedding"])
    np.testing.assert_allclose(graph, theirs(made), atol=1e-4)


def test_a_changed_weight_of_a_layer_is_another_model(folder: Path) -> None:
    made = saved(folder, dense(HIDDEN, 5, torch.nn.Tanh()))
    what = step(str(made), "embedding", {"embedding": "e"})
    before = identify(what, [])
    weights = bytearray((made / "2_Dense" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (made / "2_Dense" / "model.safetensors").write_bytes(weights)
    assert identify(what, []) != before


def test_options_replace_what_the_folder_says(folder: Path) -> None:
    made = saved(folder, modules.Normalize(), dense(HIDDEN, 5, torch.nn.Tanh()), pooling="max")
    plain = ours(made, pooling="mean", normalize=False)
    np.testing.assert_allclose(np.linalg.norm(ours(made, normalize=True), axis=1), 1, atol=1e-5)
    shutil.rmtree(made)
    made = saved(folder, dense(HIDDEN, 5, torch.nn.Tanh()))
    np.testing.assert_allclose(plain, theirs(made), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"activation_function": "os.system"}, r"asks for the activation os\.system"),
        (
            {"activation_function": "torch.nn.modules.activation.Softmax"},
            "asks for the activation torch.nn.modules.activation.Softmax",
        ),
        ({"module_output_name": "token_embeddings"}, "from sentence_embedding to token_embeddings"),
        ({"in_features": "16"}, "doesn't say in_features and out_features"),
    ],
)
def test_a_layer_that_this_engine_lacks_is_refused_when_planning(
    folder: Path, changed: dict[str, Any], message: str
) -> None:
    made = saved(folder, dense(HIDDEN, 5, torch.nn.Tanh()))
    path = made / "2_Dense" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ModelError, match=message):
        check(step(str(made), "embedding", {"embedding": "e"}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"in_features": 17}, "takes vectors of 17 numbers, and is given 16"),
        ({"out_features": 6}, r"the weights have the shapes .* and config\.json asks for"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_when_it_is_loaded(
    folder: Path, changed: dict[str, Any], message: str
) -> None:
    made = saved(folder, dense(HIDDEN, 5, torch.nn.Tanh()))
    path = made / "2_Dense" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ModelError, match=message):
        ours(made)


def test_damaged_weights_of_a_layer_are_named(folder: Path) -> None:
    made = saved(folder, dense(HIDDEN, 5, torch.nn.Tanh()))
    (made / "2_Dense" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"model\.safetensors holds no weights that can be read"):
        ours(made)


def test_a_job_over_such_a_folder(folder: Path) -> None:
    made = saved(folder, dense(HIDDEN, 5, torch.nn.Tanh()), modules.Normalize())
    pq.write_table(pa.table({"t": TEXTS}), folder.parent / "in.parquet")
    job = Job(
        version=1,
        name="vectors",
        input={"path": str(folder.parent / "in.parquet")},
        model={
            "engine": "transformers",
            "uri": str(made),
            "task": "embedding",
            "inputs": {"text": "t"},
            "outputs": {"embedding": "vector"},
            "precision": "fp32",
        },
        output={"path": str(folder.parent / "out")},
    )
    got = job.run().results().collect()["vector"].to_numpy()
    np.testing.assert_allclose(got, theirs(made), atol=1e-5)
