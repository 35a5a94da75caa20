"""Large lookup tables become int8 where that saves memory, and give the rows that they gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from batchinfer.engines.replicas import Replicas
from batchinfer.precision import recipes
from batchinfer.precision.layers import load_torchao, quantize
from batchinfer.precision.tables import LEAST, quantize_tables

ROWS, WIDTH = 1 << 15, 32
assert ROWS * WIDTH == LEAST


class Texts(torch.nn.Module):
    """A table of words that is worth it, one of positions that isn't, and a layer."""

    def __init__(self, words: Any = None) -> None:
        super().__init__()
        self.words = words if words is not None else torch.nn.Embedding(ROWS, WIDTH, padding_idx=0)
        self.positions = torch.nn.Embedding(ROWS - 1, WIDTH)
        self.last = torch.nn.Linear(WIDTH, 8)

    def forward(self, ids: torch.Tensor) -> Any:
        places = torch.arange(ids.shape[1])
        return self.last(self.words(ids) + self.positions(places))


def model(words: Any = None) -> Texts:
    torch.manual_seed(5)
    return Texts(words).eval()


IDS = torch.tensor([[0, 1, 2, ROWS - 1], [7, 7, 0, ROWS // 2]])


def bytes_of(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


@pytest.mark.parametrize(("name", "dtype"), [("int8-weight", torch.bfloat16), ("int4-weight", torch.float32)])
def test_a_large_table_is_quantized_with_the_layers_and_counted_among_them(name: str, dtype: torch.dtype) -> None:
    exact, applied = model(), recipes.apply(name, model(), "cpu")
    assert applied.told() == {"quantized_layers": 2, "layers": 2, "compiled": False}
    assert applied.module.words.rows.dtype == torch.int8
    assert bytes_of(applied.module.words) == ROWS * (WIDTH + dtype.itemsize)
    assert type(applied.module.positions) is torch.nn.Embedding
    with torch.inference_mode():
        ours, theirs = applied.module(IDS), exact(IDS)
    assert ours.dtype == dtype
    assert torch.nn.functional.cosine_similarity(ours.float(), theirs, dim=-1).min() > 0.99


def test_a_recipe_that_asks_for_no_tables_leaves_them_and_does_not_count_them() -> None:
    of = model()
    config = load_torchao("a test").Int8WeightOnlyConfig()
    assert quantize(of, config, "of a test", lambda _: True, "any") == (1, 1)
    assert type(of.words) is torch.nn.Embedding


def test_a_row_is_off_by_half_a_step_of_its_own_scale_at_most() -> None:
    weight = torch.randn(ROWS, WIDTH) * torch.logspace(-6, 6, ROWS)[:, None]
    of = torch.nn.Sequential(torch.nn.Embedding.from_pretrained(weight))
    assert quantize_tables(of) == 1
    steps = weight.abs().amax(1) / 127
    ids = torch.arange(ROWS)
    assert ((of(ids) - weight).abs().amax(1) <= steps * 0.501).all()
    assert torch.equal(of[0].weight, of(ids))


def test_a_row_of_zeros_stays_one_and_one_of_nan_is_not_hidden() -> None:
    weight = torch.randn(ROWS, WIDTH)
    weight[3], weight[4, 5] = 0, float("nan")
    of = torch.nn.Sequential(torch.nn.Embedding.from_pretrained(weight.bfloat16()))
    quantize_tables(of)
    looked_up = of(torch.tensor([3, 4, 5]))
    assert looked_up.dtype == torch.bfloat16
    assert torch.equal(looked_up[0], torch.zeros(WIDTH, dtype=torch.bfloat16))
    assert looked_up[1].isnan().any()
    assert looked_up[2].isfinite().all()


def test_tables_that_share_their_weights_share_the_int8_ones() -> None:
    of = torch.nn.ModuleDict({"ours": torch.nn.Embedding(ROWS, WIDTH), "theirs": torch.nn.Embedding(ROWS, WIDTH)})
    of["theirs"].weight = of["ours"].weight
    of["again"] = of["ours"]
    quantize_tables(of)
    assert of["ours"] is of["theirs"] is of["again"]
    assert bytes_of(of) == ROWS * (WIDTH + 4)


def test_a_table_whose_weights_a_layer_holds_too_is_left() -> None:
    of = torch.nn.ModuleDict({"table": torch.nn.Embedding(ROWS, WIDTH), "out": torch.nn.Linear(WIDTH, ROWS)})
    of["out"].weight = of["table"].weight
    assert quantize_tables(of) == 0
    assert of["out"].weight is of["table"].weight


class Scaled(torch.nn.Embedding):
    """A lookup that does more than read, as some models of transformers have it."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * 8


def hooked() -> torch.nn.Embedding:
    table = torch.nn.Embedding(ROWS, WIDTH)
    table.register_forward_hook(lambda module, given, rows: rows * 2)
    return table


@pytest.mark.parametrize("words", [Scaled(ROWS, WIDTH), torch.nn.Embedding(ROWS, WIDTH, max_norm=1.0), hooked()])
def test_a_table_that_does_more_in_a_lookup_than_read_is_left(words: torch.nn.Embedding) -> None:
    of = model(words)
    assert quantize_tables(of) == 0
    assert of.words is words


def test_a_large_table_that_is_left_counts_as_a_layer_that_is_not_quantized() -> None:
    applied = recipes.apply("int8-weight", model(Scaled(ROWS, WIDTH)), "cpu")
    assert applied.told() == {"quantized_layers": 1, "layers": 2, "compiled": False}


def test_calls_that_run_at_a_time_share_a_table() -> None:
    copy = Replicas(recipes.apply("int8-weight", model(), "cpu").module, "cpu", 1)
    first, second = copy.here(), copy._copy()
    assert second is not first
    assert second.words.rows is first.words.rows
    assert second.words.scale is first.words.scale


@pytest.mark.slow
def test_a_table_is_compiled_with_the_rest() -> None:
    exact, applied = model(), recipes.apply("int8", model(), "cpu")
    assert applied.told() == {"quantized_layers": 2, "layers": 2, "compiled": True}
    with torch.inference_mode():
        near = torch.nn.functional.cosine_similarity(applied.module(IDS), exact(IDS), dim=-1)
    assert 0.99 < near.min() < 1
