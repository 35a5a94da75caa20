"""Engines by name: opening one in a worker, and checking and identifying a step's model when the job is planned.

Nothing here imports a model library or the user's code except `open_engine`'s result, when it is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import cast

from batchinfer.engines.identity import identify
from batchinfer.engines.location import locate, pinned
from batchinfer.engines.modules import file_of, weights_of
from batchinfer.engines.options import (
    TASKS,
    EmbeddingOptions,
    Options,
    TorchOptions,
    check_names,
    parse,
    runs_own_code,
    task_of,
)
from batchinfer.engines.protocol import ModelEngine
from batchinfer.engines.sentence import recipe
from batchinfer.engines.sources import check_class, is_class
from batchinfer.engines.trust import check_code, check_pickle
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.spec import Step
from batchinfer.precision.recipes import RECIPES

__all__ = ["check", "identify", "open_engine", "pin", "precisions", "uses_torch"]

_ENGINES = {
    "python": "batchinfer.engines.python:PythonEngine",
    "torch": "batchinfer.engines.torch:TorchEngine",
    "transformers": "batchinfer.engines.transformers:TransformersEngine",
}
_PACKAGES = {
    "python": (),
    "torch": (),
    "transformers": ("transformers", "tokenizers", "safetensors", "huggingface_hub"),
}
"""Packages of the extra `transformers` that an engine needs."""


def open_engine(step: Step, code: Sequence[str] = ()) -> ModelEngine:
    """The step's engine, not loaded yet; `code` are the absolute folders that `module:Class` may be imported from.

    Raises ModelError for wrong options, inputs or outputs.
    """
    module, _, name = _ENGINES[step.engine].partition(":")
    return cast(ModelEngine, getattr(importlib.import_module(module), name)(step, code))


def precisions(step: Step) -> tuple[str, ...]:
    """What the step's engine can be loaded at, the reference first; `native` alone for an engine without recipes."""
    return ("native",) if step.engine == "python" else RECIPES


def uses_torch(step: Step) -> bool:
    """Whether the step's model runs on a device of torch's; any other is given the CPU and finds its own way."""
    return step.engine != "python"


def pin(step: Step) -> Step:
    """The step with the revision of an `hf:` model resolved to a commit, so that every worker loads the planned one.

    Downloads the model where the local cache lacks it. Raises ModelError where it can't be found.
    """
    if step.engine != "transformers" or not step.uri.startswith("hf:"):
        return step
    location = locate(step.uri, f"{step.name}.uri", code=runs_own_code(step))
    return step.model_copy(update={"uri": pinned(step.uri, location.revision)})


def check(step: Step, code: Sequence[str] = ()) -> None:
    """Check a step when the job is planned: options, names, precision, packages, files, and that the class exists.

    Raises ModelError with one line per mistake, each beginning with its key (`model.options.pooling: …`), and
    MissingExtraError naming what to install. Finds what can be seen without loading the model; weights that don't fit
    are found by `Engine.load`.
    """
    wrong = _keys(step)
    if step.engine == "transformers":
        wrong += _wrong_names(step)
        wrong += _wrong_options(TASKS[step.task].options, step) if step.task in TASKS else []
    elif step.engine == "torch":
        wrong += _wrong_options(TorchOptions, step)
    if wrong:
        raise ModelError("\n".join(wrong))
    weights = str(step.options.get("weights", "")) if step.engine == "torch" else ""
    needed = ("safetensors",) if weights.endswith(".safetensors") else _PACKAGES[step.engine]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "transformers", f"{step.name}.engine: {step.engine}")
    _check_model(step, code)


def _keys(step: Step) -> list[str]:
    """What is wrong with the keys that say how an engine is used, one message each."""
    name, wrong = step.name, []
    if step.precision != "auto" and step.precision not in precisions(step):
        wrong.append(f"{name}.precision: the {step.engine} engine runs a class as it is: remove {step.precision}")
    if step.engine != "python" and step.input_format != "dict":
        wrong.append(f"{name}.input_format: {step.input_format} is for the python engine: remove it")
    if step.engine != "transformers" and step.task is not None:
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
