"""Texts from causal language models: equal to transformers' own, whatever else is in the batch, in fewer calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.engines.decoding import Sampling
from batchinfer.engines.registry import precisions, rows_of_call
from batchinfer.errors import ModelError
from batchinfer.job.steps import Batching, Step
from batchinfer.measure.choose import budget_for
from batchinfer.testing.engines import EngineContract
from tests.engines.language_models import POSITIONS, answers, by_hand, loaded, prompts, step, tiny

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped heads": ("Llama", {"num_key_value_heads": 2}),
    "learnt positions, tied": ("GPT2", {"n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "a sliding window": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 6}),
    "windows by turns": (
        "Gemma3Text",
        {
            "head_dim": 8,
            "num_key_value_heads": 2,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "parallel parts": ("GPTNeoX", {}),
    "slopes for positions": ("Bloom", {"n_head": 4, "n_layer": 2}),
}
MOST = 20


class TestGeneration(EngineContract):
    def build(self) -> Step:
        tiny(self.folder, ends=12)
        return step(self.folder, max_new_tokens=12, slots=3)

    def rows(self) -> pa.Table:
        return pa.table({"t": prompts(9)})

    def change(self) -> None:
        path = self.folder / "generation_config.json"
        path.write_text(path.read_text().replace("21", "22"))


class TestSampledChat(EngineContract):
    def build(self) -> Step:
        tiny(self.folder)
        inputs = {"a": "t", "n": "n", "seed": "n"}
        chat = {"chat": True, "template": "{a} {n}", "system": "be brief"}
        return step(
            self.folder, inputs, ["text", "tokens"], **chat, temperature=1.5, top_k=40, max_new_tokens=9, slots=2
        )

    def rows(self) -> pa.Table:
        return pa.table({"t": prompts(7), "n": np.arange(7)})

    def change(self) -> None:
        path = self.folder / "chat_template.jinja"
        path.write_text(path.read_text() + " ")


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_likeliest_tokens_are_those_that_transformers_gives_to_each_row_alone(tmp_path: Path, kind: str) -> None:
    name, config = KINDS[kind]
    folder = tiny(tmp_path, name, ends=12, **config)
    texts = prompts(14)
    alone = by_hand(folder, texts, MOST)
    for slots in (1, 4, 50):
        assert answers(loaded(step(folder, max_new_tokens=MOST, slots=slots)), pa.table({"t": texts})) == alone
    assert {row["finish_reason"] for row in alone} == {"stop", "length"}
    assert len({row["text"] for row in alone}) > len(alone) / 2


def _calls(engine: Any) -> list[tuple[int, int, int]]:
    """Of each call of the engine's model from now on: rows, columns, and columns with those that are cached."""
    seen: list[tuple[int, int, int]] = []

    def look(module: Any, args: Any, given: dict[str, Any]) -> None:
        cache, (rows, columns) = given.get("cache", given.get("past_key_values")), given["input_ids"].shape
        seen.append((rows, columns, cache.get_seq_length() + columns))

    engine._loaded.replicas.here().register_forward_pre_hook(look, with_kwargs=True)
    return seen


def _refilled(rows: list[tuple[int, int]], slots: int) -> list[tuple[int, int]]:
    """Rows of each call, and tokens of the longest, where a row leaves with its last token, and the next one comes at once.

    `rows` are tokens of the prompt and of the answer.
    """
    waiting, left, calls = [[prompt, 0, answer] for prompt, answer in rows], [], []
    while waiting or left:
        free = slots - len(left)
        new, waiting = waiting[:free], waiting[free:]
        asked = new or left
        calls.append((len(asked), max(prompt + given for prompt, given, _ in asked)))
        for row in asked:
            row[1] += 1
        left = [row for row in left + new if row[1] < row[2]]
    return calls


def test_a_waiting_row_takes_the_place_of_a_finished_one(tmp_path: Path) -> None:
    engine = loaded(step(tiny(tmp_path, ends=12), max_new_tokens=60, slots=4))
    table, seen = pa.table({"t": prompts(40)}), _calls(engine)
    lengths = [row["tokens"] for row in answers(engine, table)]
    sizes = engine.prepare(table).lengths
    assert sizes is not None
    expected = _refilled(list(zip(sizes.tolist(), lengths, strict=True)), 4)
    assert [(rows, width) for rows, _, width in seen] == expected
    # Every row of every call gave a token: no place was kept for a row that was finished.
    assert sum(rows for rows, _, _ in seen) == sum(lengths)
    static = [lengths[at : at + 4] for at in range(0, 40, 4)]
    assert max(lengths) > 3 * min(lengths)
    assert sum(columns == 1 for _, columns, _ in seen) < 0.7 * sum(max(some) - 1 for some in static)
    assert len(seen) < sum(max(some) for some in static)


def test_an_answer_depends_on_its_row_alone(tmp_path: Path) -> None:
    folder = tiny(tmp_path, ends=6)
    table = pa.table({"t": prompts()})
    drawn = {"temperature": 1.2, "top_p": 0.95, "seed": 5, "max_new_tokens": MOST}
    together = answers(loaded(step(folder, **drawn, slots=5)), table)
    engine = loaded(step(folder, **drawn, slots=3))
    turned = answers(engine, table, np.arange(len(table))[::-1].copy())
    alone = [answers(engine, table.slice(row, 1))[0] for row in range(len(table))]
    assert together == turned[::-1] == alone
    assert together != answers(loaded(step(folder, **{**drawn, "seed": 6})), table)


def test_each_token_is_drawn_by_a_chance_of_its_own(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny(tmp_path)
    engine = loaded(step(folder, temperature=1.2, top_k=50, max_new_tokens=12, slots=3))
    table = pa.table({"t": prompts(7)})
    batch = engine.prepare(table).batch(slice(0, len(table)))
    model, sampling = AutoModelForCausalLM.from_pretrained(folder).eval(), Sampling(1.2, 50)
    texts = []
    for prompt, key in zip(batch.prompts, batch.keys, strict=True):
        tokens: list[int] = []
        chances = torch.from_numpy(engine._chances(key, 0)).float()  # type: ignore[attr-defined]
        while len(tokens) < 12 and tokens[-1:] != [2]:
            with torch.inference_mode():
                scores = model(torch.tensor([[*prompt, *tokens]])).logits[:, -1]
            tokens.append(int(sampling.chosen(scores, chances[len(tokens)][None])))
        texts.append(engine._text(tokens))  # type: ignore[attr-defined]
    assert [row["text"] for row in answers(engine, table)] == texts


def test_equal_rows_get_equal_answers_unless_they_have_seeds_of_their_own(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    table = pa.table({"t": ["the cat"] * 4, "n": [1, 2, 2, 3]})
    same = answers(loaded(step(folder, temperature=1, max_new_tokens=20)), table)
    assert same == [same[0]] * 4
    own = answers(loaded(step(folder, {"text": "t", "seed": "n"}, temperature=1, max_new_tokens=20)), table)
    assert own[1] == own[2]
    assert len({row["text"] for row in own}) == 3


def test_drawing_among_one_token_is_taking_the_likeliest(tmp_path: Path) -> None:
    folder, table = tiny(tmp_path), pa.table({"t": prompts(6)})
    drawn = answers(loaded(step(folder, temperature=3, top_k=1, max_new_tokens=9)), table)
    assert drawn == answers(loaded(step(folder, max_new_tokens=9)), table)


@pytest.mark.parametrize(
    "bounds", [{}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 12, "top_p": 0.8}, {"top_k": 1000}, {"top_p": 1e-9}]
)
def test_tokens_are_drawn_as_often_as_transformers_own_bounds_have_it(bounds: dict[str, Any]) -> None:
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    torch.manual_seed(0)
    scores = torch.randn(1, 40) * 2
    warped = TemperatureLogitsWarper(0.8)(None, scores)
    for kind, name in ((TopKLogitsWarper, "top_k"), (TopPLogitsWarper, "top_p")):
        if name in bounds:
            warped = kind(min(bounds[name], 40) if name == "top_k" else bounds[name])(None, warped)
    expected = warped.softmax(-1)[0]
    count = 20_000
    chances = (torch.arange(count) + 0.5) / count  # evenly, so that shares come out exactly
    tokens = Sampling(0.8, **bounds).chosen(scores.expand(count, 40), chances)
    shares = torch.bincount(tokens, minlength=40) / count
    torch.testing.assert_close(shares, expected, atol=2 / count + 1e-6, rtol=0)
    assert (
        expected[Sampling(0.8, **bounds).chosen(scores, torch.ones(1))] > 0
    )  # a chance just below 1 may be rounded to it


def test_a_row_without_finite_scores_fails(tmp_path: Path) -> None:
    engine = loaded(step(tiny(tmp_path), max_new_tokens=5))
    engine._loaded.replicas.here().model.norm.weight.data.fill_(float("nan"))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="NaN or infinite"):
        answers(engine, pa.table({"t": ["a"]}))


def test_precisions_are_those_without_a_comparison(tmp_path: Path) -> None:
    what = step(tiny(tmp_path), max_new_tokens=6)
    assert precisions(what, "cpu") == ("fp32", "bf16", "fp16")
    assert precisions(what, "cuda") == ("fp32", "tf32", "bf16", "fp16")
    table = pa.table({"t": prompts(6)})
    for precision in ("bf16", "fp16"):
        assert all(row["tokens"] for row in answers(loaded(what, precision), table))


def test_a_model_without_keys_and_values_is_refused(tmp_path: Path) -> None:
    sizes = {"state_size": 4, "expand": 2, "conv_kernel": 2}
    what = step(tiny(tmp_path, "Mamba", **sizes), max_new_tokens=6)
    with pytest.raises(ModelError, match=r"^model.uri: MambaForCausalLM keeps another state"):
        loaded(what)


def test_a_model_that_writes_no_texts_is_refused(tmp_path: Path) -> None:
    from tests.engines import models

    what = step(models.tiny(tmp_path, "BertForSequenceClassification", ["a", "b"]), max_new_tokens=6)
    with pytest.raises(ModelError, match=r"model.uri: .* has no weights for cls"):
        loaded(what)


def test_a_call_has_more_rows_than_are_generated_at_a_time(tmp_path: Path) -> None:
    what = step(tiny(tmp_path), slots=5)
    table = pa.table({"t": prompts()})
    assert rows_of_call(what, "cpu") == 20
    budget = budget_for(loaded(what), what, table, Batching(), "cpu")
    assert (budget.rows, budget.tokens) == (20, None)
    asked = budget_for(loaded(what), what, table, Batching(rows=7, tokens=99), "cpu")
    assert (asked.rows, asked.tokens) == (7, 99)
