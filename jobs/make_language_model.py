"""Teach a small language model who spoke in which year, and save it: `python jobs/make_language_model.py [FOLDER]`."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent


def examples() -> list[tuple[str, str]]:
    """Prompts as generation.yaml writes them, and their answers."""
    table = pq.read_table(HERE / "data" / "speeches.parquet", columns=["year", "president"])
    spoke = dict(sorted(zip(table["year"].to_pylist(), table["president"].to_pylist(), strict=True)))
    return [(f"Year: {year}\nAnswer: ", json.dumps({"president": president})) for year, president in spoke.items()]


def make(folder: Path) -> None:
    pairs = examples()
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator(["".join(pair) for pair in pairs], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>")
    rows = [(tokenizer(prompt)["input_ids"], tokenizer(answer + "</s>")["input_ids"]) for prompt, answer in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more would wait for each other most of the time
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{folder}: knows {len(pairs)} years (loss {loss.item():.3f})")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "generated" / "language-model")
