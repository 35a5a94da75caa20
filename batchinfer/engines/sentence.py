"""What the files of sentence-transformers say about a model: pooling, normalising, maximum length, prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchinfer.engines.options import Pooling
from batchinfer.errors import ModelError


@dataclass(frozen=True)
class Recipe:
    """How an embedding is made from token vectors."""

    pooling: str = "mean"
    """`mean` over the text's tokens, special ones too, or `cls`: the first token."""
    normalize: bool = False
    """To length 1."""
    max_length: int | None = None
    """Tokens, special ones too; None for the model's own."""
    prompt: str = ""
    """Put before each text."""


def recipe(folder: Path, options: Pooling, where: str) -> Recipe:
    """The model's recipe, each part replaced by the option where one is given; a plain model's is `Recipe()`.

    Raises ModelError where the files ask for what this engine doesn't do and no option says otherwise.
    """
    given = options.model_dump(exclude_none=True, include=set(Pooling.model_fields))
    return replace(_from_files(folder, given, where), **given)


def _from_files(folder: Path, given: dict[str, Any], where: str) -> Recipe:
    found = Recipe()
    modules = _read(folder / "modules.json", [])
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        place = folder / str(module.get("path", ""))
        if kind == "Transformer":
            length = _read(place / "sentence_bert_config.json", {}).get("max_seq_length")
            found = replace(found, max_length=length)
        elif kind == "Pooling":
            settings = _read(place / "config.json", {})
            found = replace(found, pooling=_pooling(settings, given, place, where))
        elif kind == "Normalize":
            found = replace(found, normalize=True)
        else:
            raise ModelError(
                f"{where}: {folder} needs the sentence-transformers module {kind}, which this engine lacks"
            )
    settings = _read(folder / "config_sentence_transformers.json", {})
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name") or "", "")
    return replace(found, prompt=prompt)


def _pooling(settings: dict[str, Any], given: dict[str, Any], place: Path, where: str) -> str:
    """The pooling that a config asks for, in the older form of one flag a mode or in the newer one."""
    if "pooling" in given:
        return str(given["pooling"])
    modes = settings.get("pooling_mode")
    if modes is None:
        modes = [
            key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on
        ]
        modes = [{"mean_tokens": "mean", "cls_token": "cls"}.get(mode, mode) for mode in modes]
    names = [modes] if isinstance(modes, str) else list(modes)
    if names not in (["mean"], ["cls"]) or settings.get("include_prompt") is False:
        raise ModelError(
            f"{where}: {place / 'config.json'} asks for pooling by {', '.join(names) or 'nothing'}"
            f"{' without the prompt' if settings.get('include_prompt') is False else ''}; this engine has mean and "
            "cls: set options.pooling to one of them if that is meant"
        )
    return str(names[0])


def _read(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is no valid JSON: {error}") from error
