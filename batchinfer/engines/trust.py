"""What can run code when it is loaded, and is loaded only as it was pinned: pickles by digest, a model's own code by digest or revision."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from batchinfer.engines.location import Location
from batchinfer.errors import ModelError

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
"""How the names of files end that `torch.save` wrote."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_NAMES = 3
_CONFIGURATIONS = ("config.json", "tokenizer_config.json", "preprocessor_config.json")
"""Files of a model that may name code."""


def check_pickle(path: Path, pinned: str, where: str) -> bytes:
    """The bytes of a file that is to be unpickled. Raises ModelError unless `pinned` is their SHA-256."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != pinned:
        raise ModelError(
            f"{where}: {path} has the SHA-256 {digest}, and {pinned} is pinned: unpickling another file than was meant could run "
            "anything. Bring the file back, or pin this one if you trust whoever made it"
        )
    return data


def read_state(path: Path, pinned: str | None, where: str) -> Mapping[str, Any]:
    """The state dict that `torch.save` wrote, or that of a module which it wrote.

    Tensors and plain containers alone are read, which runs no code; anything else only where `pinned` is the SHA-256 of the file.

    Raises:
        ModelError: the file is damaged, isn't the pinned one, holds more than may be read, or no state dict.

    """
    import torch

    try:
        if pinned is None:
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            data = check_pickle(path, pinned, where)
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    except ModelError:
        raise
    except Exception as error:
        if pinned is None and (names := _names(path)):
            raise ModelError(
                f"{where}: {path} holds more than tensors ({', '.join(names)}), and reading that can run any code. Convert it where "
                "it was made, with safetensors.torch.save_file; or, if you trust whoever made it, pin it: options.allow_pickle: "
                f"{hashlib.sha256(path.read_bytes()).hexdigest()}"
            ) from error
        raise ModelError(f"{where}: {path} can't be read: {type(error).__name__}: {reason(error)}") from error
    if isinstance(found, torch.nn.Module):
        found = found.state_dict()
    if isinstance(found, Mapping) and isinstance(
        found.get("state_dict"), Mapping
    ):  # as checkpoints of training have it
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        held = ", ".join(map(str, list(found)[:_MOST_NAMES])) if isinstance(found, Mapping) else type(found).__name__
        raise ModelError(f"{where}: {path} holds no state dict, but {held}: save module.state_dict() alone")
    return found


def check_code(location: Location, uri: str, pinned: bool | str | None, where: str) -> bool:
    """Whether the code that a model brings may be run. Raises ModelError where it may, but isn't pinned, or isn't what was pinned.

    Args:
        location: of the model, with its code.
        uri: as the step has it.
        pinned: the option `trust_remote_code`: True for an `hf:` model, whose revision pins it; else a digest.
        where: the step's name.

    """
    if not pinned:
        return False
    option = f"{where}.options.trust_remote_code"
    if uri.startswith("hf:"):
        if pinned is not True:
            raise ModelError(f"{option}: the revision in the uri pins the code of an hf: model: write true")
        if not _COMMIT.fullmatch(uri.partition("@")[2]):
            raise ModelError(
                f"{option}: {uri} may be other code tomorrow: pin what you have read, uri: {uri.partition('@')[0]}@{location.revision}"
            )
    else:
        digest = code_digest(location)
        if pinned is True:
            raise ModelError(
                f"{option}: nothing pins the code in {location.folder}: read it, and if you trust it, write its digest: {digest}"
            )
        if pinned != digest:
            raise ModelError(
                f"{option}: the code in {location.folder} has the digest {digest}, and {pinned} is pinned: it is not what you have read"
            )
    for reference in own_code(location.folder):
        if "--" in reference:
            raise ModelError(
                f"{option}: {location.folder} takes code from another repository ({reference}), which nothing pins: put that code into "
                "the model's folder, and take what stands before -- out of auto_map"
            )
    return True


def own_code(folder: Path) -> list[str]:
    """The classes that a model takes from code which it brings, such as `modeling.Model`. Raises ModelError."""
    return [name for file in _CONFIGURATIONS for name in _references(folder / file)]


def code_digest(location: Location) -> str:
    """SHA-256 over the names and bytes of the Python files in a model's folder (hexadecimal)."""
    total = hashlib.sha256()
    for name, path in location.files().items():
        if name.endswith(".py"):
            total.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return total.hexdigest()


def reason(error: BaseException) -> str:
    """What a model library says is wrong, without the stack and the advice that it prints below."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line.rstrip(":") for line in lines if line), "no reason given")


def _names(path: Path) -> list[str]:
    """What a file asks for beyond tensors, some of it."""
    import torch

    try:
        return [str(name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)[:_MOST_NAMES]]
    except Exception:  # noqa: BLE001 - a damaged file may raise anything
        return []


def _references(path: Path) -> Iterator[str]:
    """The classes that a model's configuration takes from code of its own."""
    try:
        found = json.loads(path.read_bytes()).get("auto_map", {})
    except FileNotFoundError:
        return
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path} is no valid JSON: {error}") from error
    for value in found.values() if isinstance(found, dict) else [found]:
        yield from (str(each) for each in (value if isinstance(value, list) else [value]))
