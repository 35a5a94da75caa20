"""Pickles and code that a model brings: not run unless pinned, and then only what was pinned."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from batchinfer.engines.checks import check
from batchinfer.engines.protocol import Engine
from batchinfer.engines.registry import identify, open_engine, pin
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step

NETS = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.last = torch.nn.Linear(2, 1)

    def forward(self, v):
        return self.last(v)[:, 0]
"""
TABLE = pa.table({"v": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))})
STATE = {"last.weight": torch.tensor([[1.0, 10.0]]), "last.bias": torch.tensor([0.5])}
ANSWERS = [21.5, 43.5]


class Explodes:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def torch_step(weights: Path | None, **options: Any) -> Step:
    given = options if weights is None else {"weights": str(weights), **options}
    keys = {"engine": "torch", "uri": "nets:Net", "inputs": {"v": "v"}, "outputs": {"y": "y"}, "options": given}
    return Step.model_validate(keys)


def loaded(step: Step, code: Path | None = None) -> Engine:
    folders = [] if code is None else [str(code)]
    check(step, folders)
    engine = open_engine(step, folders)
    engine.load("cpu", "fp32", 1)
    return engine


def answers(engine: Engine) -> list[float]:
    columns = engine.finish(engine.infer(engine.prepare(TABLE).batch(slice(0, 2))))
    found: list[float] = columns["y"].to_pylist()
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickled_state_dict_gives_what_safetensors_give(code: Path, suffix: str, wrapped: bool) -> None:
    save_file(STATE, code / "w.safetensors")
    torch.save({"state_dict": STATE, "epoch": 3} if wrapped else STATE, code / f"w{suffix}")
    for name in ("w.safetensors", f"w{suffix}"):
        step = torch_step(code / name)
        assert answers(loaded(step, code)) == ANSWERS
        assert f"weights/{name}" in identify(step, [str(code)]).files


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_that_would_run_code_are_read_only_with_their_digest(code: Path, legacy: bool) -> None:
    path, trace = code / "w.pt", code / "trace"
    torch.save({**STATE, "extra": Explodes(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ModelError, match=r"model\.options\.weights: " if legacy else rf"mkdir\).*allow_pickle: {sha256(path)}"
    ):
        loaded(torch_step(path), code)
    wrong = "0" * 64
    for call in (check, lambda step, folders: open_engine(step, folders).load("cpu", "fp32", 1)):
        with pytest.raises(ModelError, match=rf"model\.options\..*{sha256(path)}, and {wrong} is pinned"):
            call(torch_step(path, allow_pickle=wrong), [str(code)])
    assert not trace.exists()
    with pytest.raises(ModelError, match="holds no state dict"):
        loaded(torch_step(path, allow_pickle=sha256(path)), code)
    assert trace.exists()  # it was trusted


def test_a_file_that_was_swapped_after_planning_is_not_unpickled(code: Path) -> None:
    path, trace = code / "w.pt", code / "trace"
    torch.save(STATE, path)
    step = torch_step(path, allow_pickle=sha256(path))
    check(step, [str(code)])
    torch.save(Explodes(trace), path)
    with pytest.raises(ModelError, match="is pinned"):
        open_engine(step, [str(code)]).load("cpu", "fp32", 1)
    assert not trace.exists()


def test_a_pickled_module_gives_its_weights_where_it_is_trusted(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(code))
    import importlib

    module = importlib.import_module("nets").Net()
    module.load_state_dict(STATE)
    torch.save(module, code / "w.pt")
    with pytest.raises(ModelError, match=r"nets\.Net.*allow_pickle"):
        loaded(torch_step(code / "w.pt"), code)
    assert answers(loaded(torch_step(code / "w.pt", allow_pickle=sha256(code / "w.pt")), code)) == ANSWERS


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("w.pt", {"allow_pickle": True}, r"model\.options\.allow_pickle: pin what may be loaded: write its SHA-256"),
        ("w.pt", {"allow_pickle": "abc"}, r"model\.options\.allow_pickle: pin what may be loaded"),
        ("w.safetensors", {"allow_pickle": "0" * 64}, r"model\.options\.allow_pickle: .*is no pickle: remove it"),
        ("", {"allow_pickle": "0" * 64}, r"model\.options\.allow_pickle: .*options\.weights: give that too"),
        ("w.json", {}, r"model\.options\.weights: .*none of the files"),
    ],
)
def test_a_wrong_pin_is_found_when_planning(code: Path, name: str, options: dict[str, Any], message: str) -> None:
    if name:
        (code / name).write_bytes(b"")
    with pytest.raises(ModelError, match=message):
        check(torch_step(code / name if name else None, **options), [str(code)])


@pytest.mark.parametrize("data", [b"", b"junk", pickle.dumps(3), pickle.dumps(STATE)[:40]])
def test_damaged_pickles_are_refused_with_the_file_named(code: Path, data: bytes) -> None:
    (code / "w.pt").write_bytes(data)
    for options in ({}, {"allow_pickle": sha256(code / "w.pt")}):
        with pytest.raises(
            ModelError, match=r"model\.options\.weights: .*w\.pt (can't be read|holds no state dict)"
        ) as raised:
            loaded(torch_step(code / "w.pt", **options), code)
        assert "\n" not in str(raised.value)


def test_a_script_that_cannot_be_loaded_is_told_in_one_line(tmp_path: Path) -> None:
    import zipfile

    torch.jit.script(torch.nn.Linear(2, 1)).save(str(tmp_path / "good.pt"))
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            bad.writestr(
                name,
                data.replace(b"torch.linear", b"torch.nothing").replace(b"F.linear", b"F.nothing")
                if name.endswith(".py")
                else data,
            )
    keys = {"engine": "torch", "inputs": {"input": "v"}, "outputs": {"y": "y"}}
    for path in (tmp_path / "bad.pt",):
        with pytest.raises(ModelError, match=r"model\.uri: .*bad\.pt can't be loaded by torch [\d.]+") as raised:
            loaded(Step.model_validate({**keys, "uri": str(path)}))
        assert "\n" not in str(raised.value)


CONFIGURATION = """
from transformers import PretrainedConfig
{line}

class TinyConfig(PretrainedConfig):
    model_type = "tiny-own"

    def __init__(self, hidden_size=8, vocab_size=8, **more):
        self.hidden_size, self.vocab_size = hidden_size, vocab_size
        super().__init__(**more)
"""
MODELING = """
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from .configuration import TinyConfig

class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        return BaseModelOutput(last_hidden_state=self.table(input_ids))
"""


def own_code(folder: Path, line: str = "") -> Path:
    """A model whose classes are in its folder; `line` is run when they are imported."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configuration.py").write_text(CONFIGURATION.format(line=line))
    (folder / "modeling.py").write_text(MODELING)
    classes = {"AutoConfig": "configuration.TinyConfig", "AutoModel": "modeling.TinyModel"}
    config = {"model_type": "tiny-own", "architectures": ["TinyModel"], "hidden_size": 8, "vocab_size": 8}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": classes}))
    save_file({"table.weight": torch.arange(64.0).reshape(8, 8)}, folder / "model.safetensors", {"format": "pt"})
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(folder)
    return folder


def text_step(uri: str, **options: Any) -> Step:
    keys = {"engine": "transformers", "task": "embedding", "inputs": {"text": "t"}, "outputs": {"embedding": "e"}}
    return Step.model_validate({**keys, "uri": uri, "options": options})


def embedded(engine: Engine) -> list[list[float]]:
    batch = engine.prepare(pa.table({"t": ["a", "b"]})).batch(slice(0, 2))
    found: list[list[float]] = engine.finish(engine.infer(batch))["embedding"].to_pylist()
    return found


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies the code here before it imports it; one place for a process."""
    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("utils.hub", "dynamic_module_utils"):
            patch.setattr(f"transformers.{name}.HF_MODULES_CACHE", folder)
        yield


@pytest.mark.usefixtures("modules")
def test_a_models_own_code_is_run_only_with_its_digest(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    folder = own_code(tmp_path / "model", f"import os; os.path.isdir({str(trace)!r}) or os.mkdir({str(trace)!r})")
    with pytest.raises(
        ModelError, match=r"brings code of its own \(configuration\.TinyConfig, .*options\.trust_remote_code"
    ):
        loaded(text_step(str(folder)))
    with pytest.raises(
        ModelError, match=r"trust_remote_code: nothing pins the code .* write its digest: [0-9a-f]{64}"
    ) as told:
        check(text_step(str(folder), trust_remote_code=True))
    digest = str(told.value)[-64:]
    with pytest.raises(ModelError, match=rf"has the digest {digest}, and 0{{64}} is pinned"):
        loaded(text_step(str(folder), trust_remote_code="0" * 64))
    assert not trace.exists()
    step = text_step(str(folder), trust_remote_code=digest)
    assert embedded(loaded(step)) == [[float(n) for n in range(16, 24)], [float(n) for n in range(24, 32)]]
    assert trace.exists()
    assert {"configuration.py", "modeling.py"} <= set(identify(step).files)
    before = identify(step)
    (folder / "helper.py").write_text("")
    assert identify(step).digest != before.digest
    with pytest.raises(ModelError, match="not what you have read"):
        open_engine(step).load("cpu", "fp32", 1)


@pytest.mark.usefixtures("modules")
def test_code_of_the_hub_is_run_only_at_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--own"
    own_code(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for uri in ("hf:org/own", "hf:org/own@main", "hf:org/own@0123456789ab"):
        if uri.endswith("ab"):
            (repository / "refs" / "0123456789ab").write_text(commit)
        with pytest.raises(ModelError, match=rf"may be other code tomorrow: .*uri: hf:org/own@{commit}"):
            check(text_step(uri, trust_remote_code=True))
    with pytest.raises(ModelError, match="write true"):
        check(text_step(f"hf:org/own@{commit}", trust_remote_code="0" * 64))
    step = text_step(f"hf:org/own@{commit}", trust_remote_code=True)
    assert len(embedded(loaded(pin(step, {})))) == 2
    assert "modeling.py" in identify(step).files


def test_code_of_another_repository_is_refused(tmp_path: Path) -> None:
    folder = own_code(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "someone/else--modeling.TinyModel"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as told:
        check(text_step(str(folder), trust_remote_code=True))
    with pytest.raises(ModelError, match=r"another repository \(someone/else--modeling\.TinyModel\)"):
        check(text_step(str(folder), trust_remote_code=str(told.value)[-64:]))


@pytest.mark.parametrize("explodes", [False, True])
def test_pickled_weights_of_a_transformers_model_are_read_without_running_code(tmp_path: Path, explodes: bool) -> None:
    import transformers

    folder = own_code(tmp_path / "model")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 8,
    }
    config = transformers.BertConfig(**sizes)
    state = transformers.BertModel(config).state_dict()
    config.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({**state, "x": Explodes(tmp_path / "trace")} if explodes else state, folder / "pytorch_model.bin")
    step = text_step(str(folder))
    if explodes:
        with pytest.raises(ModelError, match=r"more than tensors.*save_pretrained"):
            loaded(step)
        assert not (tmp_path / "trace").exists()
    else:
        assert len(embedded(loaded(step))[0]) == 16
        assert "pytorch_model.bin" in identify(step).files
