"""What may stand in a step of an engine that runs graphs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from batchinfer.engines.options import ColumnOptions, MaxLength, Options, Pooling
from batchinfer.job.steps import Step


class GraphOptions(Options):
    """Options of the engines that run graphs."""

    calibration: Annotated[
        str | None,
        Field(
            description="Parquet file of rows like the job's, for int8: layers round their inputs within the ranges that these rows have; "
            "default: within those of each call"
        ),
    ] = None


class OnnxOptions(GraphOptions):
    """Options of the onnx engine."""

    provider: Annotated[
        str | None, Field(description="ONNX Runtime's execution provider; default: CUDA's with GPUs, else the CPU's")
    ] = None


class OnnxColumnOptions(ColumnOptions, OnnxOptions):
    """Options of the onnx engine on columns."""


class GraphFile(MaxLength):
    """Options of the engines that run graphs, on texts."""

    file: Annotated[str | None, Field(description="the graph's file, where the folder holds several")] = None


class OnnxTextOptions(GraphFile, OnnxOptions):
    """Options of the onnx engine on texts."""


class OnnxEmbeddingOptions(Pooling, OnnxTextOptions):
    """Options of the onnx engine's task embedding."""


class OpenVINOOptions(GraphOptions):
    """Options of the openvino engine."""


class OpenVINOColumnOptions(ColumnOptions, OpenVINOOptions):
    """Options of the openvino engine on columns."""


class OpenVINOTextOptions(GraphFile, OpenVINOOptions):
    """Options of the openvino engine on texts."""


class OpenVINOEmbeddingOptions(Pooling, OpenVINOTextOptions):
    """Options of the openvino engine's task embedding."""


def graph_options(step: Step) -> type[OnnxOptions] | type[OpenVINOOptions]:
    """The options that a step of an engine that runs graphs may have."""
    return openvino_options(step) if step.engine == "openvino" else onnx_options(step)


def onnx_options(step: Step) -> type[OnnxOptions]:
    """The options that a step of the onnx engine may have."""
    if step.task is None:
        return OnnxColumnOptions
    return OnnxEmbeddingOptions if step.task == "embedding" else OnnxTextOptions


def openvino_options(step: Step) -> type[OpenVINOOptions]:
    """The options that a step of the openvino engine may have."""
    if step.task is None:
        return OpenVINOColumnOptions
    return OpenVINOEmbeddingOptions if step.task == "embedding" else OpenVINOTextOptions
