"""Where a model's files are: a path, inside an installed package, in the cache of what was fetched, or in that of Hugging Face."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from batchinfer.engines import fetched
from batchinfer.engines.sources import find_installed
from batchinfer.errors import MissingExtraError, ModelError

PATTERNS = (
    "config*.json",
    "preprocessor_config.json",
    "generation_config.json",
    "chat_template*",
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens*",
    "added_tokens*",
    "*.safetensors",
    "*.safetensors.index.json",
    "modules.json",
    "sentence_*_config.json",
    "*/config.json",
    "[0-9]*_*/model.safetensors",
    "[0-9]*_*/pytorch_model.bin",
    "*.model",
    "*.spm",
)
"""The files that decide what a model gives, as globs relative to its folder."""
_PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Weights of a model that has no safetensors."""
_HUB = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")
_CODE = ("**/*.py",)
"""Of a model whose own code is run."""


@dataclass(frozen=True)
class Location:
    """A model's folder on this machine."""

    folder: Path
    revision: str | None = None
    """The commit, for a model of the Hugging Face Hub."""
    code: bool = False
    """Whether the model's own code is run."""

    @property
    def has_safetensors(self) -> bool:
        """Whether the weights are safetensors; else they are pickled."""
        return any(self.folder.glob("*.safetensors"))

    def files(self) -> dict[str, Path]:
        """The files that matter, by path relative to the folder, in order of that path."""
        globs = [*PATTERNS, *(_CODE if self.code else ()), *(() if self.has_safetensors else _PICKLED)]
        found = {path.relative_to(self.folder).as_posix(): path for glob in globs for path in self.folder.glob(glob)}
        return {name: found[name] for name in sorted(found) if found[name].is_file()}


def locate(uri: str, where: str, *, code: bool = False) -> Location:
    """The folder of a model; downloads an `hf:` one that isn't in the local cache, unless HF_HUB_OFFLINE is set.

    `uri` is `hf:org/name@revision` (a branch, tag or commit; the default branch without one), or what `place_of` takes;
    `where` is the key of the job file for messages; `code`: the model's own code is run. Raises ModelError
    where there is no such model and MissingExtraError where `hf:` needs a package that isn't installed.
    """
    if uri.startswith("hf:"):
        return _from_hub(uri, where, code=code)
    folder = place_of(uri, where)
    if not folder.is_dir():
        raise ModelError(
            f"{where}: there is no folder {folder}: give a model's folder or its URL, hf:org/name or package:name/path"
        )
    return Location(folder, code=code)


def is_here(uri: str) -> bool:
    """Whether locating a model downloads nothing; also for an `hf:` one that can't be found at all."""
    match = _HUB.fullmatch(uri)
    if match is None or importlib.util.find_spec("huggingface_hub") is None:
        return True
    from huggingface_hub import try_to_load_from_cache

    name, revision = match.groups()
    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)


def place_of(uri: str, where: str) -> Path:
    """The file or folder of a model on this machine, which may not exist; imports and fetches nothing.

    `uri` is an absolute path, also with `file://`, `package:name/path`, or a URL that was fetched. Raises ModelError for anything else.
    """
    if fetched.is_remote(uri):
        return fetched.path_of(uri, where)
    path = _in_package(uri, where) if uri.startswith("package:") else Path(uri.removeprefix("file://"))
    if not path.is_absolute():
        raise ModelError(f"{where}: {uri} must be an absolute path, a URL or package:name/path")
    return path


def _in_package(uri: str, where: str) -> Path:
    """The file or folder that `package:name/path` names, found without importing the package. Raises ModelError."""
    package, _, path = uri.removeprefix("package:").partition("/")
    if not package.isidentifier() or ".." in Path(path).parts:
        raise ModelError(f"{where}: {uri!r} is not of the form package:name/path")
    spec = find_installed(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise ModelError(f"{where}: the package {package} isn't installed: pip install the distribution that has it")
    for folder in map(Path, folders):
        if (folder / path).exists():
            return folder / path
    raise ModelError(f"{where}: the package {package} has no {path}; it lies in {folders[0]}")


def pinned(uri: str, revision: str | None) -> str:
    """An `hf:` uri with the commit it resolved to, so that every worker loads the same; any other uri as it is."""
    return uri if revision is None else f"{uri.partition('@')[0]}@{revision}"


def _from_hub(uri: str, where: str, *, code: bool) -> Location:
    match = _HUB.fullmatch(uri)
    if match is None:
        raise ModelError(f"{where}: {uri!r} is not of the form hf:org/name or hf:org/name@revision")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtraError("huggingface_hub", "transformers", f"{where}: {uri}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, revision = match.groups()
    patterns = [*PATTERNS, *(("*.py",) if code else ())]  # here * is any path
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        if not Location(folder).has_safetensors:
            snapshot_download(name, revision=folder.name, allow_patterns=[*patterns, *_PICKLED])
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{where}: {uri} is not in the local Hugging Face cache, and the Hub can't be reached (or HF_HUB_OFFLINE "
            f"is set): run `hf download {name}` where there is a network, or give the path of a local copy"
        ) from error
    except HfHubHTTPError as error:
        raise ModelError(
            f"{where}: the Hugging Face Hub gives no {uri}: check its name and revision, and log in for a gated model "
            f"({type(error).__name__})"
        ) from error
    # A snapshot's folder is named by its commit: …/models--org--name/snapshots/<commit>.
    return Location(folder, folder.name, code=code)
