"""Small random language models with a tokenizer of their own, and their answers by transformers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.engines.protocol import Engine
from batchinfer.engines.registry import open_engine
from batchinfer.job.steps import Step
from tests.engines.models import TEXT, WORDS

CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
POSITIONS = 160


def prompts(count: int = 24, seed: int = 3) -> list[str]:
    """Texts of one to thirty words, no two alike."""
    generator = np.random.default_rng(seed)
    return [f"{n} " + " ".join(generator.choice(WORDS, size=generator.integers(1, 30))) for n in range(count)]


def tiny(folder: Path, kind: str = "Llama", ends: int = 1, seed: int = 0, **config: Any) -> str:
    """A model of four heads and two layers, saved to `folder`. So many of its tokens end an answer."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", *ROLES]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT, *prompts()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ROLES}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = CHAT
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(seed)
    made = getattr(transformers, f"{kind}Config")(
        **{
            **sizes,
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": POSITIONS,
            # Wide enough that random weights tell prompts apart.
            "initializer_range": 0.5,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            **config,
        }
    )
    model = transformers.AutoModelForCausalLM.from_config(made)
    model.generation_config.eos_token_id = [2, *range(20, 19 + ends)]
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def step(
    folder: str | Path, inputs: dict[str, str] | None = None, outputs: list[str] | None = None, **options: Any
) -> Step:
    names = outputs or ["text", "finish_reason", "tokens"]
    keys = {"engine": "transformers", "uri": str(folder), "task": "text-generation", "inputs": inputs or {"text": "t"}}
    return Step.model_validate({**keys, "outputs": {name: name for name in names}, "options": options})


def loaded(what: Step, precision: str = "fp32") -> Engine:
    engine = open_engine(what)
    engine.load("cpu", precision, 1)
    return engine


def answers(engine: Engine, table: pa.Table, rows: Any = None) -> list[dict[str, Any]]:
    """What the engine gives for these rows, by default all, in one call."""
    prepared = engine.prepare(table)
    columns = engine.finish(engine.infer(prepared.batch(slice(0, len(table)) if rows is None else rows)))
    return pa.table(dict(columns)).to_pylist()


def by_hand(folder: str | Path, texts: list[str], most: int, **inputs: Any) -> list[dict[str, Any]]:
    """Each text alone through transformers' own `generate`, which takes the likeliest tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for text in texts:
        given = tokenizer(text, return_tensors="pt", **inputs)
        with torch.inference_mode():
            whole = model.generate(
                input_ids=given["input_ids"],
                attention_mask=given["attention_mask"],
                do_sample=False,
                max_new_tokens=most,
            )
        new = whole[0, given["input_ids"].shape[1] :].tolist()
        ended = new[-1] in model.generation_config.eos_token_id
        text_ = tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True)
        found.append({"text": text_, "finish_reason": "stop" if ended else "length", "tokens": len(new)})
    return found
