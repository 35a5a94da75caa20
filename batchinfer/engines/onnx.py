"""The onnx engine: an ONNX graph run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchinfer.engines.calibration import calibration
from batchinfer.engines.graph import Graph, GraphEngine, Port, Use, check_batches
from batchinfer.engines.graph_files import GraphFiles, find_graph
from batchinfer.engines.graph_options import OnnxOptions, onnx_options
from batchinfer.engines.graph_uses import use_for
from batchinfer.engines.options import parse
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.precision import onnx_int8
from batchinfer.storage.store import StorageOptions

_DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"} | {
    name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}
_REMEDY = "export it with a first axis of any size (torch.onnx.export: dynamic_shapes={'input': {0: 'rows'}})"


def engine(
    step: Step,
    code: Sequence[str] = (),  # noqa: ARG001 - an ONNX file brings no code
    storage: StorageOptions | None = None,
    prepared: PreparedColumns | None = None,
) -> GraphEngine:
    """The engine of a step, not loaded yet. Raises ModelError for wrong options."""
    options = parse(onnx_options(step), step)
    use = partial(use_for, step, options, storage or {}, prepared or PreparedColumns())
    return GraphEngine(step, partial(_open, step, options, use), use)


def precisions(files: GraphFiles) -> tuple[str, ...]:
    """What a graph can be loaded at, the reference first: `native` for one that holds numbers narrower than float32."""
    return ("fp32", "int8") if files.is_float else ("native",)


class _Session:
    """A session of ONNX Runtime."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = {port.name: port for port in map(_port, session.get_inputs())}
        self.outputs = {port.name: port for port in map(_port, session.get_outputs())}
        self.provider = str(session.get_providers()[0])

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        return dict(zip(outputs, self._session.run(outputs, dict(feeds)), strict=True))


def _open(
    step: Step, options: OnnxOptions, use: Callable[[Graph, int], Use], device: str, precision: str, threads: int
) -> Graph:
    files = find_graph(step)
    known = precisions(files)
    if precision not in known:
        raise ModelError(f"{step.name}.precision: {files.model} runs at {' or '.join(known)} here, not at {precision}")
    path = files.model
    if precision == "int8":
        ranges = calibration(step, lambda: use(_graph(step, options, files.model, "cpu", threads), threads))
        path = onnx_int8.quantized(path, files.files(), step.name, ranges)
    return _graph(step, options, path, device, threads)


def _graph(step: Step, options: OnnxOptions, path: Path, device: str, threads: int) -> Graph:
    import onnxruntime

    where = f"{step.name}.uri"
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # warnings are about how the file was exported
    # Threads that wait by spinning take the cores from reading, preparing and writing.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # AVX2 and AVX-512 without VNNI add pairs of products in 16 bits, which overflow: int8 would say something else there.
    settings.add_session_config_entry("session.x64quantprecision", "1")
    provider = _provider(step, options, device, onnxruntime.get_available_providers())
    session = _session(path, settings, provider, where)
    graph = _Session(session)
    if graph.provider != provider[0]:
        raise ModelError(
            f"{where}: ONNX Runtime {onnxruntime.__version__} runs it on {graph.provider}, not on {provider[0]} as asked: its "
            "libraries (such as CUDA's and cuDNN's) can't be loaded here; install them, or set resources.gpus to 0"
        )
    check_batches(graph, step, _REMEDY)
    return graph


def _provider(step: Step, options: OnnxOptions, device: str, available: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The execution provider with its options. Raises ModelError where ONNX Runtime hasn't the one that is asked for."""
    kind, _, number = device.partition(":")
    name = options.provider or ("CUDAExecutionProvider" if kind == "cuda" else "CPUExecutionProvider")
    if name not in available:
        key = f"{step.name}.options.provider" if options.provider else "resources.gpus"
        raise ModelError(
            f"{key}: this ONNX Runtime has no {name}, but {', '.join(available)}: install a build that has it "
            "(for CUDA: onnxruntime-gpu), or remove the key"
        )
    return name, ({"device_id": number or "0"} if name == "CUDAExecutionProvider" else {})


def _session(path: Path, settings: Any, provider: tuple[str, dict[str, str]], where: str) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=[provider])
    except Exception as error:  # its exceptions have no class in common
        raise ModelError(
            f"{where}: {path} can't be loaded by ONNX Runtime {onnxruntime.__version__}: {error}"
        ) from error


def _port(argument: Any) -> Port:
    kind = str(argument.type)
    dtype = _DTYPES.get(kind.removeprefix("tensor(").removesuffix(")")) if kind.startswith("tensor(") else None
    shape = None if dtype is None else tuple(size if isinstance(size, int) else None for size in argument.shape)
    return Port(argument.name, kind, np.dtype(dtype) if dtype else None, shape)
