"""Images that are made for a test, and models that take any."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageOps

from batchinfer.engines.protocol import Engine
from batchinfer.engines.registry import open_engine
from batchinfer.job.steps import Step
from tests.engines.graphs import write

MODULE = """
import torch

class Means(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixels):
        return pixels.mean((2, 3)) * self.gain

class Plain(torch.nn.Module):
    def forward(self, pixels):
        return pixels.mean((2, 3))

class Whole(torch.nn.Module):
    def forward(self, pixels):
        return pixels.flatten(1)
"""


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(wide: int = 40, high: int = 30, seed: int = 0) -> Image.Image:
    """Smooth in places and noisy in others, so that filters, rows, columns and channels all make a difference."""
    values = noise(high, wide, 3, seed=seed)
    values[: high // 2] = np.linspace(0, 255, wide, dtype=np.uint8)[None, :, None]
    values[:, : wide // 3, seed % 3] = 200
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pictures(count: int = 7) -> list[bytes]:
    """Encoded images of several formats and sizes."""
    kinds = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
    return [encoded(picture(20 + 7 * n, 50 - 3 * n, n), kinds[n % len(kinds)]) for n in range(count)]


def table(images: list[bytes | None]) -> pa.Table:
    return pa.table({"photo": pa.array(images, pa.binary())})


def means(path: Path, shape: list[Any], gain: float = 1.0, kind: int = TensorProto.FLOAT) -> None:
    """A graph that gives each row's mean of every channel, `shape` without the axis of rows, channels first or last."""
    axes = [1, 2] if shape[-1] in (1, 3) else [2, 3]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["plain"], axes=axes, keepdims=0),
        helper.make_node("Mul", ["plain", "gain"], ["means"]),
    ]
    channels = shape[-1] if axes == [1, 2] else shape[0]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("pixels", kind, ["rows", *shape])],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, ["rows", channels])],
        [numpy_helper.from_array(np.array(gain, np.float32), "gain")],
    )
    write(graph, path)


def step(engine: str, uri: str, images: dict[str, Any] | None, output: str = "means", **keys: Any) -> Step:
    options = {} if images is None else {"images": images}
    return Step.model_validate(
        {
            "engine": engine,
            "uri": uri,
            "inputs": {"pixels": "photo"},
            "outputs": {output: "m"},
            "options": options,
            **keys,
        }
    )


def whole(folder: Path, images: dict[str, Any]) -> Engine:
    """A torch model that gives all values that it was given, as a list for each row."""
    (folder / "nets.py").write_text(MODULE)
    engine = open_engine(step("torch", "nets:Whole", images), [str(folder)])
    engine.load("cpu", "fp32", 1)
    return engine


def answers(engine: Engine, rows: pa.Table) -> NDArray[Any]:
    """The lists of the only output, as an array."""
    (column,) = engine.finish(engine.infer(engine.prepare(rows).batch(slice(0, len(rows))))).values()
    values: NDArray[Any] = np.array(column.to_pylist())
    return values


def decoded_by_pillow(data: bytes) -> Image.Image:
    """As transformers' own pipelines open an image."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
