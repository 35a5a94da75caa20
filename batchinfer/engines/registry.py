"""Engines by name: opening one in a worker, and checking and identifying a step's model when the job is planned.

Nothing here imports a model library or the user's code except `open_engine`'s result, when it is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Sequence
from typing import cast

from batchinfer.engines import onnx
from batchinfer.engines.device import resolve_device
from batchinfer.engines.graph_files import find_graph
from batchinfer.engines.identity import identify
from batchinfer.engines.location import locate, pinned
from batchinfer.engines.modules import file_of, weights_of
from batchinfer.engines.options import (
    TASKS,
    EmbeddingOptions,
    Options,
    TorchOptions,
    check_names,
    onnx_options,
    parse,
    runs_own_code,
    task_of,
)
from batchinfer.engines.protocol import Engine
from batchinfer.engines.quantized import quantized_by
from batchinfer.engines.sentence import recipe
from batchinfer.engines.sources import check_class, is_class
from batchinfer.engines.trust import check_code, check_pickle
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.spec import Step
from batchinfer.precision import layers, recipes

__all__ = [
    "check",
    "compiles",
    "device_for",
    "identify",
    "import_libraries",
    "open_engine",
    "pin",
    "precisions",
    "uses_torch",
]

_ENGINES = {
    "python": "batchinfer.engines.python:PythonEngine",
    "onnx": "batchinfer.engines.onnx:engine",
    "torch": "batchinfer.engines.torch:TorchEngine",
    "transformers": "batchinfer.engines.transformers:TransformersEngine",
}
_PACKAGES = {
    "python": (),
    "onnx": ("onnxruntime",),
    "torch": (),
    "transformers": ("transformers", "tokenizers", "safetensors", "huggingface_hub"),
}
"""Packages of extras that an engine needs."""
_LIBRARIES = {
    "python": (),
    "onnx": ("onnxruntime",),
    "torch": ("torch",),
    "transformers": ("torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto"),
}
"""Modules that the first load of a model imports, and which take seconds."""


def open_engine(step: Step, code: Sequence[str] = ()) -> Engine:
    """The step's engine, not loaded yet; `code` are the absolute folders that `module:Class` may be imported from.

    Raises ModelError for wrong options, inputs or outputs.
    """
    module, _, name = _ENGINES[step.engine].partition(":")
    return cast(Engine, getattr(importlib.import_module(module), name)(step, code))


def import_libraries(step: Step) -> None:
    """Import what loading the step's model imports, so that the first load takes no longer than any other.

    What can't be imported is left to `Engine.load`, which says why.
    """
    with contextlib.suppress(Exception):
        for module in _LIBRARIES[step.engine]:
            importlib.import_module(module)


def precisions(step: Step, device: str) -> tuple[str, ...]:
    """What the step's engine can be loaded at on a device (`cpu`, `cuda`, `mps`), the reference first.

    `native` alone for what runs as it is: a class of the python engine, and a checkpoint that comes quantized. Recipes that quantize only
    where torchao is installed, and neither these nor those that compile for what is a graph already. Raises ModelError where that depends on
    a file that can't be read.
    """
    if step.engine == "onnx":
        return onnx.precisions(find_graph(step))
    if step.engine == "python" or quantized_by(step) is not None:
        return (recipes.NATIVE,)
    known = (recipes.recipe(name) for name in recipes.possible(device))
    if _is_fixed(step):
        return tuple(each.name for each in known if not each.quantizes and not each.compiles)
    return tuple(each.name for each in known if layers.is_installed() or not each.quantizes)


def compiles(step: Step, precision: str) -> bool:
    """Whether loading the step's model at a precision compiles it, which takes long."""
    return uses_torch(step) and precision != recipes.NATIVE and recipes.recipe(precision).compiles


def uses_torch(step: Step) -> bool:
    """Whether the step's model runs on a device of torch's; any other is given the CPU and finds its own way."""
    return step.engine in ("torch", "transformers")


def device_for(step: Step, gpus: float | None) -> str:
    """The device that a worker with `gpus` GPUs (None: not said) brings the step's model onto. Raises ModelError.

    ONNX Runtime has a build of its own for GPUs, so it is given one where the job asks for it.
    """
    if uses_torch(step):
        return resolve_device(gpus)
    return "cuda" if step.engine == "onnx" and gpus else "cpu"


def pin(step: Step) -> Step:
    """The step with the revision of an `hf:` model resolved to a commit, so that every worker loads the planned one.

    Downloads the model where the local cache lacks it. Raises ModelError where it can't be found.
    """
    if step.engine != "transformers" or not step.uri.startswith("hf:"):
        return step
    location = locate(step.uri, f"{step.name}.uri", code=runs_own_code(step))
    return step.model_copy(update={"uri": pinned(step.uri, location.revision)})


def check(step: Step, code: Sequence[str] = (), device: str | None = None) -> None:
    """Check a step when the job is planned: options, names, precision, packages, files, and that the class exists.

    `device` is the one that the model will run on (`cpu`, `cuda`, `mps`), None where it isn't known yet: what that can't do is then found
    by `Engine.load`.

    Raises ModelError with one line per mistake, each beginning with its key (`model.options.pooling: …`), and
    MissingExtraError naming what to install. Finds what can be seen without loading the model; weights that don't fit
    are found by `Engine.load`.
    """
    wrong = [*_keys(step), *_wrong_precision(step, device)]
    if step.engine == "transformers":
        wrong += _wrong_names(step)
        wrong += _wrong_options(TASKS[step.task].options, step) if step.task in TASKS else []
    elif step.engine == "torch":
        wrong += _wrong_options(TorchOptions, step)
    elif step.engine == "onnx":
        wrong += _wrong_names(step) if step.task is not None else []
        wrong += _wrong_options(onnx_options(step), step)
    if wrong:
        raise ModelError("\n".join(wrong))
    weights = str(step.options.get("weights", "")) if step.engine == "torch" else ""
    needed = ("safetensors",) if weights.endswith(".safetensors") else _PACKAGES[step.engine]
    if step.engine == "onnx":
        needed += (
            *(("tokenizers",) if step.task is not None else ()),
            *(("onnx",) if step.precision == "int8" else ()),
        )
    for package in needed:
        if importlib.util.find_spec(package) is None:
            extra = "onnx" if step.engine == "onnx" else "transformers"
            raise MissingExtraError(package, extra, f"{step.name}.engine: {step.engine}")
    _check_model(step, code)
    _check_quantized(step)


def _keys(step: Step) -> list[str]:
    """What is wrong with the keys that say how an engine is used, one message each."""
    name, wrong = step.name, []
    if step.engine != "python" and step.input_format != "dict":
        wrong.append(f"{name}.input_format: {step.input_format} is for the python engine: remove it")
    if step.engine in ("python", "torch") and step.task is not None:
        wrong.append(f"{name}.task: {step.task} is for the transformers engine: remove it")
    if step.engine == "python" and not is_class(step.uri):
        wrong.append(f"{name}.uri: the python engine needs module:Class, not {step.uri}")
    if step.engine == "torch" and not is_class(step.uri):
        wrong.extend(
            f"{name}.options.{option}: goes with a uri module:Class; {step.uri} has it inside: remove it"
            for option in TorchOptions.model_fields
            if option in step.options
        )
    wrong.extend(f"{name}.inputs.{model}: lists no column" for model, columns in step.inputs.items() if not columns)
    return wrong


def _wrong_precision(step: Step, device: str | None) -> list[str]:
    """Why a step can't run at the precision that it asks for, and what it can run at, at most one message."""
    if step.precision == "auto":
        return []
    where, recipe = f"{step.name}.precision", recipes.recipe(step.precision)
    if step.engine == "python":
        return [f"{where}: the {step.engine} engine runs a class as it is: remove {step.precision}"]
    if step.engine == "onnx":
        return _wrong_for_graph(step)
    reason = recipe.obstacle(device) if device is not None else None
    if (recipe.quantizes or recipe.compiles) and _is_fixed(step):
        does = "exchanges layers" if recipe.quantizes else "compiles the code of a class"
        reason = (
            f"{step.precision} {does}, and {step.uri} is a graph without any: give the class, uri: module:Class with options.weights, "
            "or take another"
        )
    return [] if reason is None else [f"{where}: {reason}; possible: {', '.join(precisions(step, device or 'cpu'))}"]


def _wrong_for_graph(step: Step) -> list[str]:
    try:
        known = precisions(step, "cpu")
    except ModelError as error:
        return [str(error)]
    if step.precision in known:
        return []
    return [
        f"{step.name}.precision: {step.uri} runs at {' or '.join(known)}, not at {step.precision}: change or remove it"
    ]


def _check_quantized(step: Step) -> None:
    """Check what a checkpoint that comes quantized, or a recipe that quantizes one, needs. Raises ModelError and MissingExtraError."""
    method = quantized_by(step)
    if method is not None and step.precision != "auto":
        raise ModelError(
            f"{step.name}.precision: the model comes quantized (by {method}), and runs as it is: leave it at auto, or give the model "
            f"that it was made from to run at {step.precision}"
        )
    asked = uses_torch(step) and step.precision != "auto" and recipes.recipe(step.precision).quantizes
    needs = method == layers.PACKAGE or asked
    if needs and not layers.is_installed():
        purpose = f"{step.name}.precision: {step.precision}" if method is None else f"{step.name}: the quantized model"
        raise MissingExtraError(layers.PACKAGE, layers.EXTRA, purpose)


def _is_fixed(step: Step) -> bool:
    """Whether a model is a graph, whose layers can't be exchanged: a TorchScript or exported program."""
    return step.engine == "torch" and not is_class(step.uri)


def _check_model(step: Step, code: Sequence[str]) -> None:
    """Check that the model's files and code exist. Raises ModelError."""
    where = f"{step.name}.uri"
    if step.engine == "transformers":
        location = locate(step.uri, where, code=runs_own_code(step))
        names = location.files()
        if "config.json" not in names or not any(name.endswith((".safetensors", ".bin")) for name in names):
            raise ModelError(
                f"{where}: {location.folder} needs config.json, and weights in *.safetensors or pytorch_model.bin"
            )
        check_code(location, step.uri, parse(task_of(step).options, step).trust_remote_code, step.name)
        if step.task == "embedding":
            recipe(location.folder, parse(EmbeddingOptions, step), where)
    elif step.engine == "onnx":
        find_graph(step)
    elif is_class(step.uri):
        check_class(step.uri, code, where)
        if step.engine == "torch":
            options = parse(TorchOptions, step)
            weights = weights_of(options, step)
            if weights is not None and options.allow_pickle is not None:
                check_pickle(weights, options.allow_pickle, f"{step.name}.options.allow_pickle")
    else:
        file_of(step.uri, where)


def _wrong_names(step: Step) -> list[str]:
    try:
        return check_names(step, task_of(step))
    except ModelError as error:
        return [str(error)]


def _wrong_options(kind: type[Options], step: Step) -> list[str]:
    try:
        parse(kind, step)
    except ModelError as error:
        return str(error).splitlines()
    return []
