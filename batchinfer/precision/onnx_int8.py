"""int8 of ONNX Runtime: weights by channel, ahead; what layers are given by tensor, as it comes or in ranges that were found ahead."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.precision.artefacts import artefact, digest
from batchinfer.precision.calibration import Calibration

DYNAMIC = "onnxruntime quantize_dynamic per_channel int8"
STATIC = (
    "onnxruntime quantize_static QDQ per_channel uint8 int8 MinMax, of graphs without convolutions the products alone"
)
_NAME = "model.onnx"
_INTEGER = {"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "DequantizeLinear"}
"""Operators of which a quantized graph has at least one."""


def quantized(model: Path, files: Mapping[str, Path], step: str, calibration: Calibration | None = None) -> Path:
    """The int8 form of an fp32 ONNX file, built once and kept.

    `files` are all of the model's. With a calibration the layers' inputs are rounded within ranges that are part of the file, which pays
    where there are convolutions: ONNX Runtime is slow at those whose ranges it has to find for each call. Raises ModelError where nothing
    of it can be quantized, MissingExtraError without onnx.
    """
    where = f"{step}.precision: int8"
    try:
        import onnx
        import onnxruntime.quantization  # noqa: F401 - which needs onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx", where) from error

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            made = Path(place, _NAME)
            if calibration is None:
                _dynamic(model, made)
            else:
                _static(model, made, calibration)
            operators = {node.op_type for node in onnx.load(made, load_external_data=False).graph.node}
            if not operators & _INTEGER:
                raise ModelError(f"{where}: {model} has no operator that ONNX Runtime runs in int8: ask for fp32")
            made.rename(folder / _NAME)

    made_of = {f"file {name}": digest(path) for name, path in files.items()}
    made_of |= {f"package {name}": metadata.version(name) for name in ("onnx", "onnxruntime")}
    told = {"recipe": DYNAMIC} if calibration is None else {"recipe": STATIC, "calibration": calibration.made_of}
    return artefact({**made_of, **told}, build) / _NAME


def _dynamic(model: Path, made: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(model, made, per_channel=True, weight_type=QuantType.QInt8)


def _static(model: Path, made: Path, calibration: Calibration) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Feeds(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(calibration.feeds())

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self._left, None)

    feeds, ready = Feeds(), made.with_name("ready.onnx")
    nodes = onnx.load(model, load_external_data=False).graph.node
    # What stands between convolutions can be joined with them. Between matrix products it is normalisation and attention, which lose much:
    # of MiniLM a mean cosine of 0.56 in place of 0.88.
    kinds = None if any(node.op_type == "Conv" for node in nodes) else ["MatMul", "Gemm"]
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # its advice is for who calls it by hand
    try:
        # Its shape inference by symbols needs sympy, and only tells it more of graphs that it can't quantize well anyway.
        quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)
        quantize_static(
            ready,
            made,
            feeds,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=kinds,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.root.setLevel(level)
