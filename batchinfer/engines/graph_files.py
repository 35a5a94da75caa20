"""Which files a graph is made of, found when the job is planned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from batchinfer.engines.location import Location, in_package
from batchinfer.engines.onnx_file import OnnxFile, read_onnx
from batchinfer.errors import ModelError
from batchinfer.job.spec import Step


@dataclass(frozen=True)
class GraphFiles:
    """A graph's file, and the folder of the tokenizer and labels for a step with a task."""

    model: Path
    onnx: OnnxFile
    texts: Path | None

    def files(self) -> dict[str, Path]:
        """Everything that decides what the model gives, by name."""
        found = {self.model.name: self.model}
        found |= {name: self.model.parent / name for name in self.onnx.external}
        if self.texts is not None:
            beside = Location(self.texts).files()
            found |= {name: path for name, path in beside.items() if path.suffix not in (".safetensors", ".bin")}
        return found


def find_graph(step: Step) -> GraphFiles:
    """The files of the onnx engine's step: an `.onnx` file, or for a task a folder that holds one.

    Raises ModelError where there are none, or several to choose from.
    """
    where, uri = f"{step.name}.uri", step.uri
    path = in_package(uri, where) if uri.startswith("package:") else Path(uri)
    if ":" in uri and not uri.startswith("package:"):
        raise ModelError(f"{where}: the onnx engine reads a path or package:name/path, not {uri}: copy the model there")
    if not path.is_absolute():
        raise ModelError(f"{where}: {path} must be an absolute path")
    if step.task is not None and path.is_dir():
        path = _inside(path, step)
    if path.suffix != ".onnx":
        wanted = "an .onnx file" if step.task is None else "an .onnx file, or a folder with one"
        raise ModelError(f"{where}: the onnx engine loads {wanted}, not {uri}")
    if not path.is_file():
        raise ModelError(f"{where}: there is no file {path}")
    texts = None
    if step.task is not None:
        folders = [path.parent, path.parent.parent]  # exports for the Hub lie in a folder onnx/ of the model's
        texts = next((folder for folder in folders if (folder / "tokenizer.json").is_file()), None)
        if texts is None:
            raise ModelError(f"{where}: there is no tokenizer.json beside {path}: save the model's tokenizer there")
    return GraphFiles(path, read_onnx(path, where), texts)


def _inside(folder: Path, step: Step) -> Path:
    named = step.options.get("file")
    if isinstance(named, str):
        return folder / named
    found = sorted([*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")])
    if len(found) != 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found) or "none"
        raise ModelError(
            f"{step.name}.uri: {folder} must hold one .onnx file, and holds {names}: say which with options.file"
        )
    return found[0]
