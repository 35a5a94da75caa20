"""Checks of a step when the job is planned, without loading its model.

Nothing here imports a model library or the user's code.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import pyarrow as pa

from batchinfer.engines import calibration, mlflow, sklearn
from batchinfer.engines.fetched import addressed, remote_uris
from batchinfer.engines.graph_files import find_graph
from batchinfer.engines.graph_options import graph_options
from batchinfer.engines.location import locate
from batchinfer.engines.mlflow_registry import SCHEMES
from batchinfer.engines.modules import file_of, weights_of
from batchinfer.engines.options import (
    TASKS,
    ColumnOptions,
    EmbeddingOptions,
    GenerationOptions,
    MlflowOptions,
    Options,
    SklearnOptions,
    TorchOptions,
    check_names,
    generates,
    nearest,
    parse,
    runs_own_code,
    task_of,
)
from batchinfer.engines.prompts import wrong_generation
from batchinfer.engines.quantized import quantized_by
from batchinfer.engines.registry import GRAPHS, is_fixed, precisions, uses_torch
from batchinfer.engines.sentence import recipe
from batchinfer.engines.sources import check_class, is_class
from batchinfer.engines.trust import check_code, check_pickle
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.steps import Step
from batchinfer.precision import layers, recipes

_PACKAGES = {
    "python": (),
    "sklearn": ("sklearn",),
    "mlflow": ("mlflow", "pandas"),
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": (),
    "transformers": ("transformers", "tokenizers", "safetensors", "huggingface_hub"),
}
"""Packages of extras that an engine needs."""


def check(step: Step, code: Sequence[str] = (), device: str | None = None) -> None:
    """Check a step when the job is planned: options, names, precision, packages, files, and that the class exists.

    `device` is the one that the model will run on (`cpu`, `cuda`, `mps`), None where it isn't known yet: what that can't do is then found
    by `Engine.load`.

    Raises ModelError with one line per mistake, each beginning with its key (`model.options.pooling: …`), and
    MissingExtraError naming what to install. Finds what can be seen without loading the model; weights that don't fit
    are found by `Engine.load`. Of a model that is fetched, what needs its files is left to `check_model`.
    """
    wrong = _keys(step)
    if not remote_uris(step):
        wrong += _wrong_precision(step, device)
    if generates(step):
        _require_schemas(step)
        wrong += _wrong_generation(step)
    elif step.engine == "transformers":
        wrong += _wrong_names(step)
        wrong += _wrong_options(TASKS[step.task].options, step) if step.task in TASKS else []
    elif step.engine == "torch":
        wrong += _wrong_options(TorchOptions, step)
    elif step.engine == "sklearn":
        wrong += _wrong_options(SklearnOptions, step)
        wrong += [
            f"{step.name}.outputs.{name}: is no method that gives a value for each row; {nearest(name, sklearn.METHODS)}"
            for name in step.outputs
            if name not in sklearn.METHODS
        ]
    elif step.engine == "mlflow":
        wrong += _wrong_options(MlflowOptions, step)
    elif step.engine in GRAPHS:
        wrong += _wrong_names(step) if step.task is not None else []
        wrong += _wrong_options(graph_options(step), step)
    if wrong:
        raise ModelError("\n".join(wrong))
    check_packages(step)
    if not remote_uris(step):
        _check_model(step, code)
        _check_quantized(step)


def check_packages(step: Step) -> None:
    """Check that the packages of extras that a step needs are installed. Raises MissingExtraError for one that isn't."""
    _require_schemas(step)
    weights = str(step.options.get("weights", "")) if step.engine == "torch" else ""
    needed = ("safetensors",) if weights.endswith(".safetensors") else _PACKAGES[step.engine]
    if step.engine in GRAPHS:
        needed += (
            *(("tokenizers",) if step.task is not None else ()),
            *(("onnx",) if step.engine == "onnx" and step.precision == "int8" else ()),
        )
    if _takes_images(step) and not _is_installed("PIL"):
        raise MissingExtraError("pillow", "images", f"{step.name}: an input of images")
    for package in needed:
        if not _is_installed(package):
            extra = step.engine if step.engine in (*GRAPHS, "sklearn", "mlflow") else "transformers"
            raise MissingExtraError(package, extra, f"{step.name}.engine: {step.engine}")


def _require_schemas(step: Step) -> None:
    if generates(step) and "schema" in step.options and not _is_installed("jsonschema"):
        raise MissingExtraError("jsonschema", "generation", f"{step.name}.options.schema")


def check_model(step: Step, code: Sequence[str] = (), device: str | None = None) -> None:
    """Check what `check` leaves open of a model that is fetched, now that its files are here. Raises as `check` does."""
    try:
        wrong = _wrong_precision(step, device)
        _check_model(step, code)
        _check_quantized(step)
    except ModelError as error:
        raise ModelError(addressed(str(error), step)) from error
    if wrong:
        raise ModelError("\n".join(wrong))


def check_columns(step: Step, schema: pa.Schema) -> None:
    """Check the types of the input's columns against what a step's model says it takes, where it does. Raises ModelError."""
    if step.engine == "mlflow":
        mlflow.check_columns(step, schema)


def _takes_images(step: Step) -> bool:
    """Whether inputs of a step may be images; not of a user's class, which decodes what it likes."""
    return step.task == "image-classification" or (step.engine != "python" and step.options.get("images") is not None)


def _keys(step: Step) -> list[str]:
    """What is wrong with the keys that say how an engine is used, one message each."""
    name, wrong = step.name, []
    if step.engine != "python" and step.input_format != "dict":
        wrong.append(f"{name}.input_format: {step.input_format} is for the python engine: remove it")
    if step.engine in ("python", "torch", "sklearn", "mlflow") and step.task is not None:
        wrong.append(f"{name}.task: {step.task} is for the transformers engine: remove it")
    if step.engine in GRAPHS and step.task == "image-classification":
        wrong.append(
            f"{name}.task: {step.task} is for the transformers engine: remove it, and say in options.images how the graph takes images"
        )
    if step.engine != "mlflow" and step.uri.startswith(SCHEMES):
        wrong.append(f"{name}.uri: {step.uri} is for the mlflow engine")
    if step.engine == "python" and not is_class(step.uri):
        wrong.append(f"{name}.uri: the python engine needs module:Class, not {step.uri}")
    if step.engine == "torch" and not is_class(step.uri):
        wrong.extend(
            f"{name}.options.{option}: goes with a uri module:Class; {step.uri} has it inside: remove it"
            for option in TorchOptions.model_fields
            if option in step.options and option not in ColumnOptions.model_fields
        )
    wrong.extend(f"{name}.inputs.{model}: lists no column" for model, columns in step.inputs.items() if not columns)
    return wrong


def _wrong_precision(step: Step, device: str | None) -> list[str]:
    """Why a step can't run at the precision that it asks for, and what it can run at, at most one message."""
    if step.precision == "auto":
        return []
    where, recipe = f"{step.name}.precision", recipes.recipe(step.precision)
    if step.engine in ("python", "sklearn", "mlflow"):
        return [f"{where}: the {step.engine} engine runs a model as it is: remove {step.precision}"]
    if step.engine in GRAPHS:
        return _wrong_for_graph(step)
    reason = recipe.obstacle(device) if device is not None else None
    if (recipe.quantizes or recipe.compiles) and generates(step):
        reason = (
            f"{step.precision} is for models whose outputs are compared with fp32's before they run, and a text that differs in a word may "
            "be as good"
        )
    elif (recipe.quantizes or recipe.compiles) and is_fixed(step):
        does = "exchanges layers" if recipe.quantizes else "compiles the code of a class"
        reason = (
            f"{step.precision} {does}, and {step.uri} is a graph without any: give the class, uri: module:Class with options.weights, "
            "or take another"
        )
    return [] if reason is None else [f"{where}: {reason}; possible: {', '.join(precisions(step, device or 'cpu'))}"]


def _wrong_for_graph(step: Step) -> list[str]:
    if step.engine == "openvino" and step.precision in ("int8", "int8-weight") and not _is_installed("nncf"):
        raise MissingExtraError("nncf", "openvino", f"{step.name}.precision: {step.precision}")
    try:
        known = precisions(step, "cpu")
    except ModelError as error:
        return [str(error)]
    if step.precision in known:
        return []
    return [
        f"{step.name}.precision: {step.uri} runs at {' or '.join(known)} here, not at {step.precision}: change or "
        "remove it"
    ]


def _check_quantized(step: Step) -> None:
    """Check what a checkpoint that comes quantized, or a recipe that quantizes one, needs. Raises ModelError and MissingExtraError."""
    method = quantized_by(step)
    if method is not None and generates(step):
        raise ModelError(
            f"{step.name}.uri: the model comes quantized (by {method}), and text-generation runs plain numbers: give the model that it was made from"
        )
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


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _check_model(step: Step, code: Sequence[str]) -> None:
    """Check that the model's files and code exist. Raises ModelError."""
    where = f"{step.name}.uri"
    if step.engine == "transformers":
        location = locate(step.uri, where, code=runs_own_code(step))
        names = location.files()
        if "config.json" not in names or not any(
            "/" not in name and name.endswith((".safetensors", ".bin")) for name in names
        ):
            raise ModelError(
                f"{where}: {location.folder} needs config.json, and weights in *.safetensors or pytorch_model.bin"
            )
        if step.task == "image-classification" and "preprocessor_config.json" not in names:
            raise ModelError(
                f"{where}: {location.folder} needs preprocessor_config.json, which says how the model takes images"
            )
        options = GenerationOptions if generates(step) else task_of(step).options
        check_code(location, step.uri, parse(options, step).trust_remote_code, step.name)
        if step.task == "embedding":
            recipe(location.folder, parse(EmbeddingOptions, step), where)
    elif step.engine in GRAPHS:
        if find_graph(step).is_folder and not _is_installed("transformers"):
            raise MissingExtraError("transformers", "transformers", f"{where}: {step.uri}, which is to be converted,")
        if (rows := calibration.file_of(step)) is not None:
            if step.precision not in ("int8", "auto") or "int8" not in precisions(step, "cpu"):
                raise ModelError(
                    f"{step.name}.options.calibration: is for int8, at which the model doesn't run here: remove it"
                )
            calibration.check_file(step, rows)
    elif step.engine == "sklearn":
        if sklearn.file_of(step).suffix == sklearn.SKOPS and not _is_installed("skops"):
            raise MissingExtraError("skops", "sklearn", f"{where}: {step.uri}")
        sklearn.check_file(step)
    elif step.engine == "mlflow":
        mlflow.check_folder(step)
    elif is_class(step.uri):
        check_class(step.uri, code, where)
        if step.engine == "torch":
            given = parse(TorchOptions, step)
            weights = weights_of(given, step)
            if weights is not None and given.allow_pickle is not None:
                check_pickle(weights, given.allow_pickle, f"{step.name}.options.allow_pickle")
    else:
        file_of(step.uri, where)


def _wrong_names(step: Step) -> list[str]:
    try:
        return check_names(step, task_of(step))
    except ModelError as error:
        return [str(error)]


def _wrong_generation(step: Step) -> list[str]:
    try:
        return wrong_generation(step)
    except ModelError as error:
        return str(error).splitlines()


def _wrong_options(kind: type[Options], step: Step) -> list[str]:
    try:
        parse(kind, step)
    except ModelError as error:
        return str(error).splitlines()
    return []
