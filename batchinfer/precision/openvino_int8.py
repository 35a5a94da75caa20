"""int8 of OpenVINO's graphs, by NNCF: weights of linear layers, convolutions and lookup tables by channel with a zero point, or these and
what layers are given, in ranges that were found ahead.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.precision.artefacts import artefact, digest
from batchinfer.precision.calibration import Calibration

WEIGHTS = "nncf compress_weights INT8_ASYM"
STATIC = "nncf quantize mixed"
_NAME = "model.xml"
_TOLD = ("CI", "NNCF_CI")
"""Variables that keep OpenVINO's converter and NNCF from reporting over the network."""


def compressed(graph: Path, files: Mapping[str, Path], where: str, calibration: Calibration | None = None) -> Path:
    """The graph with weights of 8 bits, and with a calibration what its layers are given, too; built once and kept.

    `files` are all that it is made of, `where` says who asks.

    Raises ModelError where it has no weights that can be, MissingExtraError without nncf.
    """

    def build(folder: Path) -> None:
        with untold():
            try:
                import nncf
                import openvino
            except ImportError as error:
                raise MissingExtraError("nncf", "openvino", where) from error
            logging.getLogger("nncf").setLevel(logging.ERROR)
            read = openvino.Core().read_model(graph)
            before = _narrow(read)
            with contextlib.redirect_stdout(io.StringIO()):  # it draws its progress there
                if calibration is None:
                    model = nncf.compress_weights(read, mode=nncf.CompressWeightsMode.INT8_ASYM)
                else:
                    feeds = list(calibration.feeds())
                    mixed = nncf.QuantizationPreset.MIXED
                    model = nncf.quantize(read, nncf.Dataset(feeds), preset=mixed, subset_size=len(feeds))
        if _narrow(model) == before:
            raise ModelError(f"{where}: {graph} has no layer whose weights can be compressed: ask for fp32")
        openvino.save_model(model, folder / _NAME, compress_to_fp16=False)

    made_of = {f"file {name}": digest(path) for name, path in files.items()}
    made_of |= {f"package {name}": metadata.version(name) for name in ("nncf", "openvino")}
    told = {"recipe": WEIGHTS} if calibration is None else {"recipe": STATIC, "calibration": calibration.made_of}
    return artefact({**made_of, **told}, build) / _NAME


def _narrow(model: Any) -> int:
    """Constants of 8 bits."""
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    return sum(node.get_element_type().get_type_name() in ("u8", "i8") for node in constants)


@contextlib.contextmanager
def untold() -> Iterator[None]:
    """Nothing is reported to the makers of the libraries in here."""
    before = {name: os.environ.get(name) for name in _TOLD}
    os.environ.update(dict.fromkeys(_TOLD, "true"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
