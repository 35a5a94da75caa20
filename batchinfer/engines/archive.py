"""Model files as they come from strangers: telling what they are, refusing those that could run code."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import re
import zipfile
from pathlib import Path

from batchinfer.errors import ModelError

_PLAIN = re.compile(
    r"models/[^/]+\.json|archive_format|archive_version|byteorder|version|\.data/[^/]+|\.format_version"
    r"|\.storage_alignment|extra/.*|data/(weights/weight_\d+|constants/tensor_\d+|(weights|constants)/[^/]+_config\.json)"
)
_SAMPLES = re.compile(r"data/sample_inputs/[^/]+\.pt")

_MOST_NAMES_BYTES = 64 << 20
"""Of the names and shapes in a state dict; a real one has some hundred bytes for each weight."""


def is_script(path: Path) -> bool:
    """True for a TorchScript archive: a zip that holds compiled code beside its constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def names_torchao(path: Path) -> bool:
    """Whether a file of `torch.save` holds tensors of torchao's: quantized weights. Reads the names in its pickle; nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [each for each in archive.infolist() if each.filename.endswith("/data.pkl")]
            if not inside or inside[0].file_size > _MOST_NAMES_BYTES:
                return False
            operations = pickletools.genops(archive.read(inside[0]))
            return any(isinstance(value, str) and value.startswith("torchao.") for _, value, _ in operations)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # loading it says what is wrong
        return False


def refuse_pickles(path: Path, where: str) -> None:
    """Check that `torch.export.load` will unpickle nothing of a `.pt2` file but plain tensors.

    It does so for weights and constants that are marked as pickled, for custom objects, and, where the safe way fails,
    for sample inputs. Raises ModelError for a file that isn't such an archive, or has anything of the kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) != len(names):
                raise ModelError(f"{where}: {path} holds a file twice: export the model again")
            inside = {name.partition("/")[2]: name for name in names}
            if "archive_format" not in inside:
                raise ModelError(
                    f"{where}: {path} is no archive of torch.export, or one of a torch before 2.8: "
                    "write it with torch.export.save of torch 2.8 or later"
                )
            for name, full in inside.items():
                if _SAMPLES.fullmatch(name):
                    _check_samples(archive.read(full), path, where)
                elif not _PLAIN.fullmatch(name):
                    raise ModelError(f"{where}: {path} holds {name}, which may be a pickled object: export without it")
                elif name.endswith("_config.json") and name.startswith("data/"):
                    entries = json.loads(archive.read(full))["config"].items()
                    pickled = [key for key, entry in entries if entry.get("use_pickle")]
                    if pickled:
                        raise ModelError(
                            f"{where}: {path} has pickled tensors ({', '.join(pickled)}): export plain ones"
                        )
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError) as error:
        raise ModelError(f"{where}: {path} is no archive of torch.export: {error}") from error


def _check_samples(data: bytes, path: Path, where: str) -> None:
    import torch

    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(
            f"{where}: the sample inputs in {path} are more than tensors, and reading them would run code: "
            "set example_inputs of the ExportedProgram to None before torch.export.save"
        ) from error
