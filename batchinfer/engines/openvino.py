"""The openvino engine: a graph of OpenVINO's, of ONNX, or made of a transformers model, run by OpenVINO on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchinfer.engines.calibration import calibration
from batchinfer.engines.graph import Graph, GraphEngine, Port, Use, check_batches
from batchinfer.engines.graph_files import GraphFiles, find_graph
from batchinfer.engines.graph_options import openvino_options
from batchinfer.engines.graph_uses import use_for
from batchinfer.engines.openvino_conversion import converted
from batchinfer.engines.options import parse
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.precision import openvino_int8, processor
from batchinfer.storage.store import StorageOptions

_REMEDY = "make its first axis one of any size (model.reshape({0: [-1, ...]}) of OpenVINO, then save_model)"
_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of processors that compute in bfloat16, as far as that can be told without OpenVINO, which is asked when the model is loaded."""
_GROUP = 32
"""Values that are rounded together where inputs of layers are rounded to 8 bits as they come. OpenVINO's default; on MiniLM (EPYC with
VNNI, two threads) 1.8 times as fast as rounding weights alone, at a mean cosine of 0.9993.
"""


def engine(
    step: Step,
    code: Sequence[str] = (),  # noqa: ARG001 - a graph brings no code
    storage: StorageOptions | None = None,
    prepared: PreparedColumns | None = None,
) -> GraphEngine:
    """The engine of a step, not loaded yet. Raises ModelError for wrong options."""
    options = parse(openvino_options(step), step)
    use = partial(use_for, step, options, storage or {}, prepared or PreparedColumns())
    return GraphEngine(step, partial(_open, step, use), use)


def precisions(files: GraphFiles) -> tuple[str, ...]:
    """What a graph can be loaded at on this machine, the reference first: `native` for one that comes quantized."""
    if not files.is_float:
        return ("native",)
    halves = ("bf16",) if processor.flags() & _BF16 else ()
    return ("fp32", *halves, *(("int8", "int8-weight") if find_spec("nncf") is not None else ()))


class _Compiled:
    """A compiled model for each thread that calls, with weights of its own: one, compiled for the threads of a call, queues the calls of
    several. The first comes with the loading, the others with their thread's first call.
    """

    def __init__(self, model: Any, config: Mapping[str, Any], where: str) -> None:
        import openvino

        self._core, self._model, self._config, self._where = openvino.Core(), model, dict(config), where
        self._here = threading.local()
        self.inputs = {port.name: port for port in map(_port, model.inputs)}
        self.outputs = {port.name: port for port in map(_port, model.outputs)}
        compiled = self._request().get_compiled_model()
        self.provider = f"OpenVINO {', '.join(compiled.get_property('EXECUTION_DEVICES'))}"

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        request = self._request()
        request.infer(dict(feeds))
        return {name: request.get_tensor(name).data.copy() for name in outputs}

    def _request(self) -> Any:
        if not hasattr(self._here, "request"):
            try:
                compiled = self._core.compile_model(self._model, "CPU", self._config)
            except Exception as error:  # its exceptions have no class in common
                raise ModelError(f"{self._where}: OpenVINO can't compile it: {error}") from error
            self._here.request = compiled.create_infer_request()
        return self._here.request


def _open(
    step: Step,
    use: Callable[[Graph, int], Use],
    device: str,  # noqa: ARG001 - it has its own
    precision: str,
    threads: int,
) -> Graph:
    files = find_graph(step)
    known = precisions(files)
    if precision not in known:
        raise ModelError(f"{step.name}.precision: {step.uri} runs at {' or '.join(known)} here, not at {precision}")
    path, weights = files.model, files.files()
    if files.is_folder:
        path = converted(step, files)
        weights = {name: path.parent / name for name in (path.name, path.with_suffix(".bin").name)}
    ranges = None
    if precision.startswith("int8"):
        where, exact = f"{step.name}.precision: {precision}", path
        if precision == "int8":
            ranges = calibration(step, lambda: use(_graph(step, exact, "fp32", threads), threads))
        path = openvino_int8.compressed(path, weights, where, ranges)
    return _graph(step, path, precision if ranges is None else "native", threads)


def _graph(step: Step, path: Path, precision: str, threads: int) -> Graph:
    import openvino

    where = f"{step.name}.uri"
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ModelError(
            f"{step.name}.precision: OpenVINO {openvino.__version__} has no bf16 on this processor: take fp32"
        )
    try:
        model = core.read_model(path)
    except Exception as error:
        raise ModelError(f"{where}: {path} can't be read by OpenVINO {openvino.__version__}: {error}") from error
    graph = _Compiled(model, _config(precision, threads), where)
    check_batches(graph, step, _REMEDY)
    return graph


def _config(precision: str, threads: int) -> dict[str, Any]:
    """How a model is compiled: with so many threads for a call, which are not bound to cores that another call's are bound to, too."""
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    if precision != "native":
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _GROUP if precision == "int8" else 0
    return config


def _port(port: Any) -> Port:
    kind = port.get_element_type()
    try:
        dtype: np.dtype[Any] | None = np.dtype(kind.to_dtype())
    except Exception:  # noqa: BLE001 - a type that numpy lacks; its exceptions have no class in common
        dtype = None
    shape = port.get_partial_shape()
    sizes = None if shape.rank.is_dynamic else tuple(None if n.is_dynamic else n.get_length() for n in shape)
    return Port(port.get_any_name(), kind.get_type_name(), dtype, sizes)
