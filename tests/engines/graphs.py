"""Small ONNX files, written by hand or exported from torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def affine(path: Path, weight: Any, bias: Any, rows: Any = "rows", kind: int = FLOAT, **save: Any) -> None:
    """`y = x @ weight + bias`, and `best`, the position of the largest of y."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0),
    ]
    wide, narrow = weight.shape
    graph = helper.make_graph(
        nodes,
        "affine",
        [helper.make_tensor_value_info("x", kind, [rows, wide])],
        [
            helper.make_tensor_value_info("y", kind, [rows, narrow]),
            helper.make_tensor_value_info("best", TensorProto.INT64, [rows]),
        ],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    write(graph, path, **save)


def one(
    path: Path, operator: str, given: tuple[int, list[Any]], gives: tuple[int, list[Any]], **attributes: Any
) -> None:
    """A graph of one operator from `x` to `y`; each is a type of TensorProto and a shape."""
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    ports = [helper.make_tensor_value_info(name, *port) for name, port in (("x", given), ("y", gives))]
    write(helper.make_graph([node], "one", ports[:1], ports[1:]), path)


def write(graph: onnx.GraphProto, path: Path, **save: Any) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path, **save)


def export_text(folder: Path, model_class: str, output: str) -> None:
    """The transformers model of a folder as model.onnx in it, with rows and width of any size."""
    import torch
    import transformers

    model = getattr(transformers, model_class).from_pretrained(folder).eval()
    names = ("input_ids", "attention_mask", "token_type_ids")

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return self.model(**dict(zip(names, tensors, strict=True)))[output]

    sample = tuple(torch.from_numpy(np.ones((2, 7), np.int64)) for _ in names)
    axes = {name: {0: "rows", 1: "width"} for name in names} | {output: {0: "rows"}}
    with warnings.catch_warnings():
        # The exporter by TorchScript is deprecated, and takes a tenth of the time of the one that replaces it.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            Plain(),
            sample,
            folder / "model.onnx",
            input_names=list(names),
            output_names=[output],
            dynamic_axes=axes,
            dynamo=False,
        )
