"""Linear layers by oneDNN on x86: which are exchanged, and that they compute what they did."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch

from batchinfer.engines.replicas import Replicas
from batchinfer.precision import packed, processor, recipes
from batchinfer.precision.packed import pack

Linear = torch.nn.Linear

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="this torch has no oneDNN",
)


@pytest.fixture(autouse=True)
def with_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the tests run."""
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx512f"}))
    monkeypatch.setattr(packed.platform, "machine", lambda: "x86_64")


def network(*more: torch.nn.Module) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(Linear(64, 96), torch.nn.ReLU(), Linear(96, 64, bias=False), *more).eval()


def answers(module: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    with torch.inference_mode():
        return module(torch.randn(50, 64, generator=torch.Generator().manual_seed(1)).to(dtype)).float()


def names(module: Any) -> list[str]:
    return [type(each).__name__ for each in module]


@pytest.mark.parametrize(("name", "apart"), [("fp32", 1e-5), ("bf16", 5e-2)])
def test_a_module_gives_the_same_numbers_with_its_layers_packed_and_what_follows_them_in_passing(
    name: str, apart: float
) -> None:
    module = network(torch.nn.GELU())
    wanted = answers(copy.deepcopy(module))
    applied = recipes.apply(name, module, "cpu")
    assert applied.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
    if name == "fp32" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert names(module) == ["PackedLinear", "ReLU", "PackedLinear", "GELU"]
    assert (answers(applied.module, applied.dtype) - wanted).abs().max() < apart


@pytest.mark.parametrize(
    ("machine", "flags"),
    [("x86_64", {"avx2"}), ("x86_64", set()), ("aarch64", {"avx512f"})],
    ids=["no AVX-512", "flags that aren't told", "another machine"],
)
def test_float32_stays_where_packing_was_not_measured(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: set[str]
) -> None:
    monkeypatch.setattr(processor, "flags", lambda: frozenset(flags))
    monkeypatch.setattr(packed.platform, "machine", lambda: machine)
    assert (pack(module := network()), names(module)) == (0, ["Linear", "ReLU", "Linear"])


def test_what_is_compiled_keeps_its_layers() -> None:
    module = recipes.apply("fp32-compiled", network(), "cpu").module
    assert names(module) == ["Linear", "ReLU", "Linear"]


class Scaled(Linear):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(rows)


def hooked() -> Linear:
    layer = Linear(64, 64)
    layer.register_forward_hook(lambda _layer, _rows, answer: answer + 1)
    return layer


@pytest.mark.parametrize("layer", [Scaled(64, 64), hooked(), Linear(64, 1), Linear(64, 64).double()])
def test_layers_that_do_more_than_multiply_and_small_ones_and_other_types_are_left(layer: Linear) -> None:
    assert (pack(module := torch.nn.Sequential(layer)), module[0]) == (0, layer)


def test_layers_that_share_their_weights_with_others_are_left() -> None:
    module = torch.nn.ModuleDict({"words": torch.nn.Embedding(100, 64), "head": Linear(64, 100, bias=False)})
    module["head"].weight = module["words"].weight
    assert pack(module) == 0


def test_one_layer_in_two_places_is_packed_in_both() -> None:
    layer = Linear(64, 64)
    module = torch.nn.Sequential(layer, torch.nn.ReLU(), layer).eval()
    wanted = answers(copy.deepcopy(module))
    assert pack(module) == 2
    assert (answers(module) - wanted).abs().max() < 1e-5


class Twice(torch.nn.Module):
    """A user's own, with what transformers' class of GELU has."""

    act = staticmethod(torch.nn.functional.gelu)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return 2 * self.act(rows)


@pytest.mark.parametrize("then", [torch.nn.ReLU6(), torch.nn.GELU(approximate="tanh"), torch.nn.Dropout(), Twice()])
def test_an_activation_that_is_not_computed_alike_stays(then: torch.nn.Module) -> None:
    module = network(then)
    wanted = answers(copy.deepcopy(module))
    assert pack(module) == 2
    assert module[3] is then
    assert (answers(module) - wanted).abs().max() < 1e-5


def test_in_a_sequence_what_follows_a_layer_is_done_in_passing_and_each_part_alone_where_it_is_called_alone() -> None:
    module = network(torch.nn.GELU())
    exact = copy.deepcopy(module)
    pack(module)
    called: list[str] = []
    rows = torch.randn(5, 64)
    with torch.inference_mode():
        for own, wanted in zip(module, exact, strict=True):  # as who looks at what is in between
            assert (own(rows) - wanted(rows)).abs().max() < 1e-5
            rows = wanted(rows)
        module[1].forward = called.append  # never called: the layer before it does it
        assert (module(torch.ones(5, 64)) - exact(torch.ones(5, 64))).abs().max() < 1e-5
        assert not called
        part = module[:1]
        assert (part(torch.ones(5, 64)) - exact[:1](torch.ones(5, 64))).abs().max() < 1e-5
        module[1].register_forward_hook(lambda _module, _rows, answer: answer + 1)
        exact[1].register_forward_hook(lambda _module, _rows, answer: answer + 1)
        del module[1].forward
        assert (module(torch.ones(5, 64)) - exact(torch.ones(5, 64))).abs().max() < 1e-5


def test_torchs_own_encoder_layers_which_read_the_weights_of_their_layers_still_agree() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    module = torch.nn.Sequential(OrderedDict(encoder=layer, head=Linear(64, 64))).eval()
    rows = torch.randn(8, 10, 64)
    with torch.inference_mode():
        wanted = copy.deepcopy(module)(rows)
        assert pack(module) == 1
        assert (module(rows) - wanted).abs().max() < 1e-5


def test_a_packed_layer_gives_its_weights_to_who_reads_them_and_is_shared_by_calls_at_a_time() -> None:
    module = network()
    weight = module[0].weight.detach().clone()
    pack(module)
    assert torch.equal(module[0].weight, weight)
    assert (module[0].in_features, module[0].out_features) == (64, 96)
    replicas = Replicas(module, "cpu", 1)
    first = replicas.here()
    assert replicas._copy()[0] is first[0]


def test_an_encoder_of_transformers_agrees_with_its_activations_in_passing() -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    module = BertModel(BertConfig(vocab_size=100, **sizes), add_pooling_layer=False).eval()
    ids = torch.randint(0, 100, (4, 12), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = copy.deepcopy(module)(ids).last_hidden_state
        assert pack(module) == 2 * 6
        assert (module(ids).last_hidden_state - wanted).abs().max() < 1e-5
    assert {type(layer.intermediate.intermediate_act_fn) for layer in module.encoder.layer} == {torch.nn.Identity}


@pytest.mark.parametrize(
    ("rows", "told"),
    [(torch.zeros(3, 60), "3x60 and 64x96"), (torch.zeros(3, 64).double(), "Double")],
    ids=["width", "type"],
)
def test_rows_that_do_not_fit_are_told_as_torch_tells_them(rows: torch.Tensor, told: str) -> None:
    module = network()
    pack(module)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=told):
        module(rows)


@pytest.mark.parametrize("shape", [(64,), (0, 64), (2, 3, 64)])
def test_rows_may_have_any_shape(shape: tuple[int, ...]) -> None:
    layer, rows = Linear(64, 96), torch.ones(shape)
    module = torch.nn.Sequential(layer).eval()
    with torch.inference_mode():
        wanted = layer(rows)
        pack(module)
        assert module(rows).shape == wanted.shape
        assert torch.allclose(module(rows), wanted, atol=1e-5)
