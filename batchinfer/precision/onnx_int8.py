"""int8 of ONNX Runtime: weights by channel, ahead; activations by tensor, as they come."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.precision.artefacts import artefact, digest

RECIPE = "onnxruntime quantize_dynamic per_channel int8"
_NAME = "model.onnx"


def quantized(model: Path, files: Mapping[str, Path], step: str) -> Path:
    """The int8 form of an fp32 ONNX file, built once and kept.

    `files` are all of the model's. Raises ModelError where nothing of it can be quantized, MissingExtraError without onnx.
    """
    where = f"{step}.precision: int8"
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx", where) from error

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            made = Path(place, _NAME)
            quantize_dynamic(model, made, per_channel=True, weight_type=QuantType.QInt8)
            operators = {node.op_type for node in onnx.load(made, load_external_data=False).graph.node}
            if not operators & {"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "DequantizeLinear"}:
                raise ModelError(f"{where}: {model} has no operator that ONNX Runtime runs in int8: ask for fp32")
            made.rename(folder / _NAME)

    made_of = {f"file {name}": digest(path) for name, path in files.items()}
    made_of |= {f"package {name}": metadata.version(name) for name in ("onnx", "onnxruntime")}
    return artefact({**made_of, "recipe": RECIPE}, build) / _NAME
