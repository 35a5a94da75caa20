"""What the files of sentence-transformers say about a model: pooling and what follows it, maximum length, prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchinfer.engines.options import Pooling
from batchinfer.engines.pooling import ACTIVATIONS, MODES, Dense, Layer, Normalize
from batchinfer.errors import ModelError

_FLAGS = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "weightedmean_tokens": "weightedmean"}
"""Ways of pooling by the older form of a config, where the name isn't that of the newer."""
_TORCH = ("torch.nn.modules.activation.", "torch.nn.modules.linear.", "torch.nn.")


@dataclass(frozen=True)
class Recipe:
    """How an embedding is made from token vectors."""

    pooling: tuple[str, ...] = ("mean",)
    """Ways of pooling, see `pooling.MODES`."""
    include_prompt: bool = True
    """Whether the prompt's tokens are pooled too."""
    layers: tuple[Layer, ...] = ()
    """What comes after pooling, in its order."""
    max_length: int | None = None
    """Tokens, special ones too; None for the model's own."""
    prompt: str = ""
    """Put before each text."""
    lower: bool = False
    """Whether texts are put into lower case, whatever the tokenizer does."""

    def ready(self, tokenizer: Any) -> int:
        """Make a tokenizer (tokenizers.Tokenizer) one for this recipe; how many tokens at the beginning of each text aren't pooled."""
        if self.lower:
            from tokenizers import normalizers

            own = tokenizer.normalizer
            lower = normalizers.Lowercase()
            tokenizer.normalizer = lower if own is None else normalizers.Sequence([lower, own])
        if self.include_prompt or not self.prompt:
            return 0
        prompt = tokenizer.encode(self.prompt)
        return len(prompt.ids) - (prompt.special_tokens_mask[-1] if prompt.ids else 0)

    def size(self, hidden: int, where: str) -> int:
        """Of the vectors, for that of a token's. Raises ModelError where a layer takes others."""
        size = hidden * len(self.pooling)
        for layer in self.layers:
            size = layer.size(size, where)
        return size


def recipe(folder: Path, options: Pooling, where: str) -> Recipe:
    """The model's recipe, each part replaced by the option where one is given; a plain model's is `Recipe()`.

    Raises ModelError where the files ask for what this engine doesn't do and no option says otherwise.
    """
    found = _from_files(folder, options.pooling, where)
    if options.normalize is not None:
        others = tuple(layer for layer in found.layers if not isinstance(layer, Normalize))
        found = replace(found, layers=(*others, Normalize()) if options.normalize else others)
    if options.max_length is not None:
        found = replace(found, max_length=options.max_length)
    if options.prompt is not None:
        found = replace(found, prompt=options.prompt)
    return found


def _from_files(folder: Path, asked: str | None, where: str) -> Recipe:
    found = Recipe() if asked is None else Recipe((asked,))
    for module in _read(folder / "modules.json", []):
        kind = str(module.get("type", "")).rpartition(".")[2]
        place = folder / str(module.get("path", ""))
        if kind == "Transformer":
            settings = _read(place / "sentence_bert_config.json", {})
            found = replace(found, max_length=settings.get("max_seq_length"), lower=bool(settings.get("do_lower_case")))
        elif kind == "Pooling":
            settings = _read(place / "config.json", {})
            found = replace(
                found,
                pooling=_pooling(settings, place, where) if asked is None else (asked,),
                include_prompt=settings.get("include_prompt") is not False,
            )
        elif kind == "Normalize":
            found = replace(found, layers=(*found.layers, Normalize()))
        elif kind == "Dense":
            found = replace(found, layers=(*found.layers, _dense(_read(place / "config.json", {}), place, where)))
        elif kind != "Dropout":  # which does nothing where nothing is trained
            raise ModelError(
                f"{where}: {folder} needs the sentence-transformers module {kind}, which this engine lacks"
            )
    settings = _read(folder / "config_sentence_transformers.json", {})
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name") or "", "")
    return replace(found, prompt=prompt)


def _pooling(settings: dict[str, Any], place: Path, where: str) -> tuple[str, ...]:
    """The pooling that a config asks for, in the older form of one flag a mode or in the newer one."""
    modes = settings.get("pooling_mode")
    if modes is None:
        prefix = "pooling_mode_"
        flags = [key.removeprefix(prefix) for key, on in settings.items() if key.startswith(prefix) and on]
        named = {_FLAGS.get(flag, flag) for flag in flags}
        modes = [*(mode for mode in MODES if mode in named), *sorted(named.difference(MODES))]
    names = (modes,) if isinstance(modes, str) else tuple(modes)
    if unknown := [name for name in names if name not in MODES]:
        raise ModelError(
            f"{where}: {place / 'config.json'} asks for pooling by {', '.join(map(str, unknown))}; this engine has "
            f"{', '.join(MODES)}: set options.pooling to one of them if that is meant"
        )
    return names or ("mean",)


def _dense(settings: dict[str, Any], place: Path, where: str) -> Dense:
    """A module Dense. Its activation is looked up by name, and nothing is imported for it."""
    asked = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = next((asked.removeprefix(start) for start in _TORCH if asked.startswith(start)), asked)
    names = settings.get("module_input_name", "sentence_embedding"), settings.get("module_output_name")
    if name not in ACTIVATIONS or names[0] != "sentence_embedding" or names[1] not in (None, names[0]):
        raise ModelError(
            f"{where}: {place / 'config.json'} asks for the activation {asked}, from {names[0]} to {names[1] or names[0]}; this engine has "
            f"{', '.join(ACTIVATIONS)} of torch.nn, on sentence_embedding"
        )
    if not any((place / file).is_file() for file in ("model.safetensors", "pytorch_model.bin")):
        raise ModelError(f"{where}: {place} has no weights: model.safetensors or pytorch_model.bin")
    given, gives = settings.get("in_features"), settings.get("out_features")
    if not isinstance(given, int) or not isinstance(gives, int):
        raise ModelError(f"{where}: {place / 'config.json'} doesn't say in_features and out_features")
    return Dense(place, given, gives, name, bool(settings.get("bias", True)), bool(settings.get("use_residual")))


def _read(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is no valid JSON: {error}") from error
