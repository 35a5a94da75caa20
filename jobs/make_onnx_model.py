"""Fit a linear classifier to the first 1,000 digits and write it as ONNX: `python jobs/make_onnx_model.py [FILE]`."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent


def make(path: Path) -> None:
    table = pq.read_table(HERE / "data" / "digits.parquet").slice(0, 1000)
    pixels = table["pixels"].combine_chunks().flatten().to_numpy().reshape(-1, 64)
    features = np.hstack([pixels, np.ones((1000, 1))]).astype(np.float64)
    targets = np.eye(10)[table["label"].to_numpy()]
    fitted = np.linalg.solve(features.T @ features + 10 * np.eye(65), features.T @ targets).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["pixels", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["scores"]),
        helper.make_node("Mul", ["scores", "sharpness"], ["sharpened"]),
        helper.make_node("Softmax", ["sharpened"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities"], ["confidence"], axes=[1], keepdims=0),
        helper.make_node("ArgMax", ["probabilities"], ["digit"], axis=1, keepdims=0),
    ]
    constants = {"weight": fitted[:-1], "bias": fitted[-1], "sharpness": np.float32(6)}
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows", 64])],
        [
            helper.make_tensor_value_info("digit", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["rows"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    print(f"{path}: written")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "generated" / "digits.onnx")
