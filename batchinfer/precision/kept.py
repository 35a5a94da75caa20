"""Quantized modules that are kept as safetensors: quantized once, and mapped into the memory of every worker and run that comes after."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from batchinfer.precision.artefacts import artefact
from batchinfer.precision.compiled import compile_in_place
from batchinfer.precision.layers import load_torchao
from batchinfer.precision.protocol import Applied
from batchinfer.precision.tables import empty_tables, tables_of

LEAST_BYTES = 256 << 20
"""Of weights, from which on it pays, in memory: an encoder of 418 MiB took 620 MiB at its peak where it was quantized and 157 where it was
kept, and each worker on a machine has 270 MiB less of its own, as they share the file's pages. Its seconds are about the same: hashing the
files takes what quantizing does (0.9 and 0.8 s), and a batch takes as long."""
FORM = "1"
"""Of the files and of what is done to a module; a new one leaves what was kept before."""
_WEIGHTS, _RECORD, _PREFIX = "model.safetensors", "applied.json", "module."
_PACKAGES = ("torch", "torchao", "safetensors")


def kept(made_of: Mapping[str, str], recipe: str, build: Callable[[], Applied], skeleton: Callable[[], Any]) -> Applied:
    """What `build` gives for a CPU, read from where it was kept, and built and kept first where it wasn't.

    Args:
        made_of: names all that decides about the module besides the recipe: its files' digests, its class, its library's version.
        recipe: its name.
        build: quantizes the module.
        skeleton: the module in inference mode on torch's device `meta`, so without memory for its numbers.

    Raises ModelError where nothing can be kept, and what `build` and `skeleton` raise.
    """
    where = f"precision: {recipe}"
    load_torchao(where)
    versions = {f"package {name}": metadata.version(name) for name in _PACKAGES}
    folder = artefact(
        {**made_of, **versions, "recipe": recipe, "form": FORM}, lambda place: _write(build(), place, where)
    )
    return _read(skeleton(), folder)


def _write(applied: Applied, folder: Path, purpose: str) -> None:
    """All parameters and buffers of a module, those that several names share once."""
    from safetensors.torch import save_file

    module = applied.module
    first: dict[int, str] = {}
    same: dict[str, str] = {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        if (other := first.setdefault(id(tensor), name)) != name:
            same[name] = other
    # torchao takes apart only names that have a dot, and only what is a plain tensor or one of its own.
    state = {f"{_PREFIX}{name}": tensor.detach() for name, tensor in named if name not in same}
    flat, told = _support(purpose).flatten_tensor_state_dict(state)
    save_file({name: tensor.contiguous().clone() for name, tensor in flat.items()}, folder / _WEIGHTS, metadata=told)
    record = {
        "dtype": str(applied.dtype).removeprefix("torch."),
        "quantized": applied.quantized,
        "layers": applied.layers,
        "compiled": applied.compiled,
        "tables": tables_of(module),
        "same": same,
    }
    (folder / _RECORD).write_text(json.dumps(record))


def _read(module: Any, folder: Path) -> Applied:
    """The skeleton with what `_write` wrote, mapped from the file."""
    import torch
    from safetensors import safe_open

    record = json.loads((folder / _RECORD).read_bytes())
    with safe_open(folder / _WEIGHTS, "pt") as file:
        flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        found, _ = _support("a kept model").unflatten_tensor_state_dict(flat, file.metadata())
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in found.items()}
    state |= {name: state[other] for name, other in record["same"].items()}
    empty_tables(module, record["tables"])
    # Buffers that no state dict has are in no other place either: the skeleton's have no numbers.
    persistent = set(module.state_dict())
    module.load_state_dict({name: state[name] for name in persistent}, assign=True)
    for name, _ in list(module.named_buffers(remove_duplicate=False)):
        if name not in persistent:
            owner, _, buffer = name.rpartition(".")
            module.get_submodule(owner)._buffers[buffer] = state[name]
    module.requires_grad_(False)
    if record["compiled"]:
        compile_in_place(module)
    dtype = getattr(torch, record["dtype"])
    return Applied(module, dtype, record["quantized"], record["layers"], record["compiled"])


def _support(purpose: str) -> Any:
    load_torchao(purpose)
    return importlib.import_module("torchao.prototype.safetensors.safetensors_support")
