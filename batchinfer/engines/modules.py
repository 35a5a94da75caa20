"""Loading a torch module from each form that it comes in. What unpickles is in `trust`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchinfer.engines.archive import is_script, names_torchao, refuse_pickles
from batchinfer.engines.location import place_of
from batchinfer.engines.options import TorchOptions
from batchinfer.engines.sources import is_class, load_class
from batchinfer.engines.trust import PICKLES, read_state, reason
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.steps import Step
from batchinfer.precision import layers

EXPORTED = (".pt2",)
SCRIPTS = (".pt", ".ts", ".torchscript")


@dataclass(frozen=True)
class Loaded:
    """A module on its device, and how to call it."""

    module: Any
    parameters: tuple[str, ...]
    """Names of forward's parameters, in order."""
    positional: int = 0
    """How many of them, from the first, are given by position; an exported program wants what it was traced with."""
    smallest: int = 1
    """Rows that a batch needs at least."""
    dtype: Any = None
    """torch.dtype of floating inputs; None leaves them as they are."""

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """Run the module: by name where forward has all these names, else in the order given."""
        if not set(inputs) <= set(self.parameters):
            return self.module(*inputs.values())
        first = self.parameters[: self.positional]
        return self.module(*(inputs[name] for name in first), **{n: inputs[n] for n in inputs if n not in first})


def file_of(uri: str, where: str) -> Path:
    """The model file that a uri of the torch engine names.

    Raises ModelError where there is none or its kind is unknown.
    """
    path = place_of(uri, where)
    if path.suffix not in EXPORTED + SCRIPTS:
        raise ModelError(
            f"{where}: the torch engine loads {', '.join(EXPORTED + SCRIPTS)} files or module:Class, not {uri}; weights go under "
            "options.weights of a module:Class"
        )
    return _existing(path, where)


def weights_of(options: TorchOptions, step: Step) -> Path | None:
    """The file of `options.weights`, None where not given. Raises ModelError where it can't be used."""
    pins = f"{step.name}.options.allow_pickle: pins the file of options.weights"
    if options.weights is None:
        if options.allow_pickle is not None:
            raise ModelError(f"{pins}: give that too")
        return None
    where = f"{step.name}.options.weights"
    path = place_of(options.weights, where)
    if path.suffix not in (".safetensors", *PICKLES):
        raise ModelError(
            f"{where}: {path} is none of the files that weights are read from: *.safetensors, *{', *'.join(PICKLES)}"
        )
    if options.allow_pickle is not None and path.suffix == ".safetensors":
        raise ModelError(f"{pins}, and {path} is no pickle: remove it")
    return _existing(path, where)


def load(step: Step, options: TorchOptions, code: Sequence[str], device: str) -> Loaded:
    """The step's module on `device`, in inference mode, as it was stored. Raises ModelError."""
    where = f"{step.name}.uri"
    if is_class(step.uri):
        return _load_class(step, options, code, device)
    path = file_of(step.uri, where)
    return _load_exported(path, step, device) if path.suffix in EXPORTED else _load_script(path, step, device)


def _existing(path: Path, where: str) -> Path:
    if not path.is_file():
        raise ModelError(f"{where}: there is no file {path}")
    return path


def _load_class(step: Step, options: TorchOptions, code: Sequence[str], device: str) -> Loaded:
    cls = load_class(step.uri, code, f"{step.name}.uri")
    try:
        inspect.signature(cls).bind(**options.init)
    except TypeError as error:
        raise ModelError(f"{step.name}.options.init: {step.uri} can't be built with it: {error}") from error
    module = cls(**options.init)
    path = weights_of(options, step)
    state: dict[str, Any] = {}
    if path is not None:
        where = f"{step.name}.options.weights"
        safe = path.suffix == ".safetensors"
        if not safe and names_torchao(path):
            layers.load_torchao(where)  # torch reads its tensors as such once it is imported
        state = dict(_read_safetensors(path, where) if safe else read_state(path, options.allow_pickle, where))
    try:
        # Quantized weights can't be copied into plain ones: they take their place.
        keys = module.load_state_dict(state, strict=False, assign=layers.are_quantized(state))
    except RuntimeError as error:
        raise ModelError(f"{step.name}.options.weights: {path} doesn't fit {step.uri}: {error}") from error
    except AttributeError as error:
        raise ModelError(
            f"{step.name}.uri: {step.uri} is no torch.nn.Module; the python engine runs any class"
        ) from error
    if keys.missing_keys or keys.unexpected_keys:
        missing, unexpected = (", ".join(names) or "none" for names in keys)
        raise ModelError(
            f"{step.name}.options.weights: {path or 'not given, and'} doesn't fit {step.uri}: "
            f"missing keys: {missing}; unexpected keys: {unexpected}"
        )
    if layers.are_quantized(state):
        module = _like(module, state)
    module = module.eval().to(device)
    return Loaded(module, tuple(inspect.signature(module.forward).parameters))


def _like(module: Any, state: Mapping[str, Any]) -> Any:
    """The module with its buffers that no state holds in the type that the numbers beside the quantized weights have, if it is one."""
    plain = {value.dtype for value in state.values() if value.is_floating_point() and not layers.is_quantized(value)}
    return module.to(plain.pop()) if len(plain) == 1 else module


def _read_safetensors(path: Path, where: str) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError("safetensors", "transformers", where) from error
    try:
        state: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{where}: {path} can't be read: {error}") from error
    return state


def _load_script(path: Path, step: Step, device: str) -> Loaded:
    import torch

    where = f"{step.name}.uri"
    if not is_script(path):
        raise ModelError(
            f"{where}: {path} is no TorchScript file. A state dict or a pickled module goes under options.weights, with "
            "uri: module:Class; or export the module with torch.export.save"
        )
    with warnings.catch_warnings():
        # torch calls TorchScript deprecated; these files are around all the same.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        try:
            module = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise ModelError(
                f"{where}: {path} can't be loaded by torch {torch.__version__}: {reason(error)}"
            ) from error
    arguments = module.forward.schema.arguments[1:]
    needed = [argument.name for argument in arguments if not argument.has_default_value()]
    if not len(needed) <= len(step.inputs) <= len(arguments):
        raise ModelError(
            f"{step.name}.inputs: {path} takes {', '.join(a.name for a in arguments) or 'no inputs'}, "
            f"not {', '.join(step.inputs)}: name all of them"
        )
    return Loaded(module, tuple(argument.name for argument in arguments))


def _load_exported(path: Path, step: Step, device: str) -> Loaded:
    import torch
    from torch.export.passes import move_to_device_pass

    where = f"{step.name}.uri"
    refuse_pickles(path, where)
    try:
        program = torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise ModelError(f"{where}: {path} can't be loaded by torch {torch.__version__}: {reason(error)}") from error
    smallest = _smallest_batch(program, path, where)
    if device != "cpu":
        program = move_to_device_pass(program, device)
    module = program.module()
    parameters = tuple(inspect.signature(module.forward).parameters)
    named = set(step.inputs) & set(parameters)
    if len(step.inputs) != len(parameters) or (named and set(step.inputs) != set(parameters)):
        raise ModelError(
            f"{step.name}.inputs: {path} takes {', '.join(parameters)}, not {', '.join(step.inputs)}: name all of them"
        )
    keywords = program.call_spec.in_spec.child(1).context
    return Loaded(module, parameters, len(parameters) - len(keywords), smallest)


def _smallest_batch(program: Any, path: Path, where: str) -> int:
    """Rows that an exported program needs at least. Raises ModelError where the number of rows is fixed."""
    inputs = set(program.graph_signature.user_inputs)
    smallest = 1
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in inputs or not hasattr(node.meta.get("val"), "shape"):
            continue
        shape = node.meta["val"].shape
        if not shape or isinstance(shape[0], int):
            raise ModelError(
                f"{where}: {path} takes batches of one size only: its input {node.name} has the fixed shape "
                f"{tuple(shape)}. Export it with a dynamic first dimension: torch.export.export(module, args, "
                f"dynamic_shapes={{{node.name!r}: {{0: torch.export.Dim('rows')}}, …}})"
            )
        bounds = program.range_constraints.get(shape[0].node.expr)
        if bounds is not None and int(bounds.lower) > smallest:
            smallest = int(bounds.lower)
    return smallest
