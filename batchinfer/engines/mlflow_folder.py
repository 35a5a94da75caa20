"""What an MLflow model's folder says of itself, read at planning time without MLflow: its signature and what it needs installed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from batchinfer.errors import ModelError
from batchinfer.precision.artefacts import digest

MLMODEL = "MLmodel"
PREDICT = "predict"
"""What an output is called that the signature gives no name."""
_WRITTEN = ("registered_model_meta", "__pycache__")
"""What MLflow and Python write into a folder that they read."""
_REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True)
class Field:
    """A column or tensor of a signature."""

    name: str | None
    kind: str
    """MLflow's name of its type: `double`, `string`, `array`, … or `tensor`."""
    required: bool = True
    dtype: str = ""
    """Of a tensor, as numpy has it."""
    shape: tuple[int, ...] = ()
    """Of a tensor, rows first; -1 for any number."""

    @property
    def is_tensor(self) -> bool:
        """Whether it is an array, as opposed to a column of a frame."""
        return self.kind == "tensor"

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}" if self.is_tensor else self.kind


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives; None for what it doesn't say."""

    inputs: tuple[Field, ...] | None = None
    outputs: tuple[Field, ...] | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    """Types by name."""

    @property
    def is_named(self) -> bool:
        """Whether the inputs are told apart by their names."""
        return bool(self.inputs) and all(each.name is not None for each in self.inputs or ())

    @property
    def output_names(self) -> tuple[str, ...] | None:
        """What its outputs are called; None where it doesn't say what it gives."""
        if self.outputs is None:
            return None
        names = tuple(each.name for each in self.outputs if each.name is not None)
        return names if len(names) == len(self.outputs) else (PREDICT,)


@dataclass(frozen=True)
class MlflowFolder:
    """A model's folder on this machine."""

    path: Path
    signature: Signature
    requirements: tuple[str, ...]
    """As pip takes them."""
    python: str | None
    """Version that it was made with."""

    def files(self) -> dict[str, Path]:
        """All that is in it, by path relative to it, in order of that path."""
        found = {path.relative_to(self.path).as_posix(): path for path in self.path.rglob("*") if path.is_file()}
        return {name: found[name] for name in sorted(found) if not set(name.split("/")) & set(_WRITTEN)}

    def digest(self) -> str:
        """SHA-256 over names and bytes of all its files (hexadecimal)."""
        total = hashlib.sha256()
        for name, path in self.files().items():
            total.update(f"{name}\0{digest(path)}\0".encode())
        return total.hexdigest()

    def distributions(self) -> list[str]:
        """Names of what it needs installed."""
        return [match[0] for text in self.requirements if (match := re.match(r"[A-Za-z0-9][\w.-]*", text))]


def read_folder(path: Path, where: str) -> MlflowFolder:
    """What a folder says of itself. Raises ModelError where it is no MLflow model, or one that can't be called by `mlflow.pyfunc`."""
    if not (path / MLMODEL).is_file():
        raise ModelError(f"{where}: {path} is no MLflow model: it has no file {MLMODEL}")
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        told = YAML(typ="safe", pure=True).load((path / MLMODEL).read_bytes())
        pyfunc = told["flavors"].get("python_function")
        signature = _signature(told.get("signature") or {})
        requirements = _requirements(path / _REQUIREMENTS)
    except (YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{where}: {path / MLMODEL} can't be understood: {type(error).__name__}: {error}") from error
    if pyfunc is None:
        flavors = ", ".join(told["flavors"])
        raise ModelError(
            f"{where}: {path} has no flavor python_function, by which models are called, but {flavors}: save it with one"
        )
    return MlflowFolder(path, signature, requirements, pyfunc.get("python_version"))


def _signature(told: Mapping[str, Any]) -> Signature:
    params = {each["name"]: str(each["type"]) for each in json.loads(told.get("params") or "[]")}
    return Signature(_fields(told.get("inputs")), _fields(told.get("outputs")), params)


def _fields(text: str | None) -> tuple[Field, ...] | None:
    if not text:
        return None
    return tuple(_field(each) for each in json.loads(text))


def _field(told: Mapping[str, Any]) -> Field:
    tensor = told.get("tensor-spec") or {"dtype": "", "shape": ()}
    required = bool(told.get("required", not told.get("optional", False)))
    return Field(told.get("name"), str(told["type"]), required, str(tensor["dtype"]), tuple(tensor["shape"]))


def _requirements(path: Path) -> tuple[str, ...]:
    lines = path.read_text().splitlines() if path.is_file() else []
    wanted = (line.partition("#")[0].strip() for line in lines)
    return tuple(line for line in wanted if line and not line.startswith("-"))


def mismatches(folder: MlflowFolder, python: str) -> list[str]:
    """What isn't installed as the model was made with, in words; `python` is the version that runs it."""
    from packaging.requirements import InvalidRequirement, Requirement

    found = []
    for text in folder.requirements:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            found.append(f"{text}: can't be compared")
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        version = _version(["mlflow", "mlflow-skinny"] if wanted.name == "mlflow" else [wanted.name])
        if version is None:
            found.append(f"{text}: not installed")
        elif not wanted.specifier.contains(version, prereleases=True):
            found.append(f"{text}: {version} is installed")
    made = folder.python
    if made is not None and made.split(".")[:2] != python.split(".")[:2]:
        found.append(f"python=={made}: {python} runs it")
    return found


def _version(names: Sequence[str]) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
