"""Which files a graph is made of, found when the job is planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from batchinfer.engines.ir_file import read_ir
from batchinfer.engines.location import Location, place_of
from batchinfer.engines.onnx_file import read_onnx
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step

_READ: dict[str, Callable[[Path, str], tuple[bool, frozenset[str]]]] = {".onnx": read_onnx, ".xml": read_ir}
"""By suffix: whether the numbers of a graph can be brought to another precision, and the names of files beside it."""


@dataclass(frozen=True)
class _Kind:
    suffixes: tuple[str, ...]
    folders: tuple[str, ...]
    """Where exports for the Hub lie in a model's folder."""
    named: str
    """The files, for people."""
    converts: bool = False
    """Whether a transformers model is made a graph."""


_KINDS = {
    "onnx": _Kind((".onnx",), ("", "onnx"), "an .onnx file"),
    "openvino": _Kind((".xml", ".onnx"), ("", "openvino", "onnx"), "an .xml or .onnx file", converts=True),
}


@dataclass(frozen=True)
class GraphFiles:
    """A graph's file, and the folder of the tokenizer and labels for a step with a task."""

    model: Path
    """The folder of a transformers model that is to be made a graph."""
    is_float: bool
    """Whether it holds and computes floating point numbers alone, wide enough to be brought to another precision."""
    beside: frozenset[str] = frozenset()
    """Files with its weights, relative to its folder."""
    texts: Path | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the model is one of transformers, which is to be made a graph."""
        return self.model == self.texts

    def files(self) -> dict[str, Path]:
        """Everything that decides what the model gives, by name."""
        if self.is_folder:
            return Location(self.model).files()
        found = {self.model.name: self.model}
        found |= {name: self.model.parent / name for name in self.beside}
        if self.texts is not None:
            others = Location(self.texts).files()
            # Weights in folders are those of layers that come after the graph.
            weights = (".safetensors", ".bin")
            found |= {name: path for name, path in others.items() if "/" in name or path.suffix not in weights}
        return found


def find_graph(step: Step) -> GraphFiles:
    """The files of a step whose engine runs graphs: one such file, or a folder that holds one.

    Raises ModelError where there are none, or several to choose from.
    """
    where, uri, kind = f"{step.name}.uri", step.uri, _KINDS[step.engine]
    path = place_of(uri, where)
    if path.is_dir():
        path = _inside(path, step, kind)
        if path.is_dir():
            return GraphFiles(path, is_float=True, texts=path)
    if path.suffix not in kind.suffixes:
        raise ModelError(f"{where}: the {step.engine} engine loads {kind.named}, or a folder with one, not {uri}")
    if not path.is_file():
        raise ModelError(f"{where}: there is no file {path}")
    texts = None
    if step.task is not None:
        folders = [path.parent, path.parent.parent]
        texts = next((folder for folder in folders if (folder / "tokenizer.json").is_file()), None)
        if texts is None:
            raise ModelError(f"{where}: there is no tokenizer.json beside {path}: save the model's tokenizer there")
    is_float, beside = _READ[path.suffix](path, where)
    return GraphFiles(path, is_float, beside, texts)


def _inside(folder: Path, step: Step, kind: _Kind) -> Path:
    """The graph in a folder, or the folder itself where that is a transformers model and the engine can make it a graph."""
    named = step.options.get("file")
    if isinstance(named, str):
        return folder / named
    found = sorted(p for inner in kind.folders for suffix in kind.suffixes for p in (folder / inner).glob(f"*{suffix}"))
    on_texts = step.task is not None
    if not found and kind.converts and on_texts and _is_transformers(folder):
        return folder
    if len(found) != 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found) or "none"
        besides = ", or config.json, tokenizer.json and weights in safetensors" if kind.converts and on_texts else ""
        raise ModelError(
            f"{step.name}.uri: {folder} must hold one {' or '.join(kind.suffixes)} file{besides}, and holds {names}: "
            f"{'say which with options.file' if on_texts else 'give the path of one'}"
        )
    return found[0]


def _is_transformers(folder: Path) -> bool:
    needed = ("config.json", "tokenizer.json")
    return all((folder / name).is_file() for name in needed) and any(folder.glob("*.safetensors"))
