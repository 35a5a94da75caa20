"""Engines by name: opening one in a worker, and what is known of a step's model when the job is planned.

Nothing here imports a model library or the user's code except `open_engine`'s result, when it is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from batchinfer.engines import fetched, onnx, openvino
from batchinfer.engines.combine import combine_engine
from batchinfer.engines.derived import DerivedEngine
from batchinfer.engines.device import resolve_device
from batchinfer.engines.fetched import bring
from batchinfer.engines.graph_files import GraphFiles, find_graph
from batchinfer.engines.identity import identify
from batchinfer.engines.location import locate, pinned
from batchinfer.engines.options import GenerationOptions, generates, parse, runs_own_code
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.engines.protocol import ModelEngine
from batchinfer.engines.quantized import quantized_by
from batchinfer.engines.rules import rules_engine
from batchinfer.engines.sources import is_class
from batchinfer.job.steps import CombineStep, RulesStep, Step
from batchinfer.precision import layers, recipes
from batchinfer.storage.store import StorageOptions

__all__ = [
    "GRAPHS",
    "LIBRARIES",
    "bring",
    "compiles",
    "device_for",
    "identify",
    "import_libraries",
    "is_fixed",
    "open_derived",
    "open_engine",
    "pin",
    "precisions",
    "reads_files",
    "rows_of_call",
    "uses_torch",
]

_ENGINES = {
    "python": "batchinfer.engines.python:PythonEngine",
    "sklearn": "batchinfer.engines.sklearn:SklearnEngine",
    "mlflow": "batchinfer.engines.mlflow:MlflowEngine",
    "onnx": "batchinfer.engines.onnx:engine",
    "openvino": "batchinfer.engines.openvino:engine",
    "torch": "batchinfer.engines.torch:TorchEngine",
    "transformers": "batchinfer.engines.transformers:TransformersEngine",
}
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "python": (),
    "sklearn": ("joblib", "sklearn.ensemble"),
    "mlflow": ("pandas", "mlflow.pyfunc"),
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": ("torch",),
    "transformers": ("torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto"),
}
"""Modules that the first load of a model imports, and which take seconds."""
_REFILLS = 4
"""A call that generates texts has so many times the rows that it generates at a time: the last of them leave its slots empty, and the more
there are, the longer is a call, which nothing interrupts."""


GRAPHS: dict[str, Callable[[GraphFiles], tuple[str, ...]]] = {
    "onnx": onnx.precisions,
    "openvino": openvino.precisions,
}
"""Engines that run graphs, and what one can be loaded at."""


def open_engine(
    step: Step,
    code: Sequence[str] = (),
    storage: StorageOptions | None = None,
    prepared: PreparedColumns | None = None,
) -> ModelEngine:
    """The step's engine, not loaded yet.

    `code` are the absolute folders that `module:Class` may be imported from; `storage` the fsspec options by URL prefix, for files that
    rows name. `prepared` is where the columns that it makes ready are looked for first; None for an engine that shares them with no other.

    Raises ModelError for wrong options, inputs or outputs.
    """
    named = "batchinfer.engines.generation:GenerationEngine" if generates(step) else _ENGINES[step.engine]
    module, _, name = named.partition(":")
    return cast(ModelEngine, getattr(importlib.import_module(module), name)(step, code, storage, prepared))


def open_derived(step: RulesStep | CombineStep) -> DerivedEngine:
    """The engine of a step without a model. Raises InputError for a rule that is no expression."""
    return rules_engine(step) if isinstance(step, RulesStep) else combine_engine(step)


def import_libraries(step: Step) -> None:
    """Import what loading the step's model imports, so that the first load takes no longer than any other.

    What can't be imported is left to `Engine.load`, which says why.
    """
    with contextlib.suppress(Exception), layers.quiet():  # transformers imports torchao, where that is installed
        for module in LIBRARIES[step.engine]:
            importlib.import_module(module)


def precisions(step: Step, device: str) -> tuple[str, ...]:
    """What the step's engine can be loaded at on a device (`cpu`, `cuda`, `mps`), the reference first.

    `native` alone for what runs as it is: a class of the python engine, an estimator, an MLflow model, and a checkpoint that comes quantized.
    Recipes that quantize only where torchao is installed, and neither these nor those that compile for what is a graph already, or writes
    texts. Raises ModelError where that depends on a file that can't be read.
    """
    if step.engine in GRAPHS:
        return GRAPHS[step.engine](find_graph(step))
    if step.engine in ("python", "sklearn", "mlflow") or quantized_by(step) is not None:
        return (recipes.NATIVE,)
    known = (recipes.recipe(name) for name in recipes.possible(device))
    if is_fixed(step) or generates(step):
        return tuple(each.name for each in known if not each.quantizes and not each.compiles)
    return tuple(each.name for each in known if layers.is_installed() or not each.quantizes)


def rows_of_call(step: Step, device: str) -> int | None:
    """Rows that a call should have where the job file doesn't say; None where their sizes tell."""
    return _REFILLS * parse(GenerationOptions, step).slots_on(device) if generates(step) else None


def compiles(step: Step, precision: str) -> bool:
    """Whether loading the step's model at a precision compiles it, which takes long."""
    return uses_torch(step) and precision != recipes.NATIVE and recipes.recipe(precision).compiles


def uses_torch(step: Step) -> bool:
    """Whether the step's model runs on a device of torch's; any other is given the CPU and finds its own way."""
    return step.engine in ("torch", "transformers")


def reads_files(step: Step) -> bool:
    """Whether rows of a step may name files that are read: their content alone doesn't say what the model sees."""
    images = step.options.get("images")
    return step.engine != "python" and isinstance(images, dict) and images.get("root") is not None


def device_for(step: Step, gpus: float | None) -> str:
    """The device that a worker with `gpus` GPUs (None: not said) brings the step's model onto. Raises ModelError.

    ONNX Runtime has a build of its own for GPUs, so it is given one where the job asks for it.
    """
    if uses_torch(step):
        return resolve_device(gpus)
    return "cuda" if step.engine == "onnx" and gpus else "cpu"


def pin(step: Step, storage: StorageOptions) -> Step:
    """The step with the revision of an `hf:` model resolved to a commit, and that of a URL to a digest, so that every worker loads the
    planned one.

    Downloads the model where the local cache lacks it. Raises ModelError where it can't be found, and of a URL what `fetched.fetch` raises.
    """
    step = fetched.pin(step, storage)
    if step.engine != "transformers" or not step.uri.startswith("hf:"):
        return step
    location = locate(step.uri, f"{step.name}.uri", code=runs_own_code(step))
    return step.model_copy(update={"uri": pinned(step.uri, location.revision)})


def is_fixed(step: Step) -> bool:
    """Whether a model is a graph, whose layers can't be exchanged: a TorchScript or exported program."""
    return step.engine == "torch" and not is_class(step.uri)
