"""Models that are graphs of named inputs and outputs, as ONNX Runtime and OpenVINO have them, on columns or on texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.options import nearest
from batchinfer.engines.protocol import Description, Prepared
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step


@dataclass(frozen=True)
class Port:
    """An input or output of a graph."""

    name: str
    type: str
    """As the library calls it."""
    dtype: np.dtype[Any] | None
    """As numpy has it; None for what isn't a tensor of numbers or booleans."""
    shape: tuple[int | None, ...] | None
    """None for an axis of any size; None alone where the rank is unknown."""

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.type}"
        return f"{self.name}: {self.type} of shape ({', '.join('?' if n is None else str(n) for n in self.shape)})"


class Graph(Protocol):
    """A loaded graph."""

    @property
    def inputs(self) -> Mapping[str, Port]:
        """What must be fed, by name."""

    @property
    def outputs(self) -> Mapping[str, Port]:
        """What it can give, by name."""

    @property
    def provider(self) -> str:
        """The execution provider or device that runs it, as the library says after it was loaded."""

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """Compute these outputs; what comes back is the caller's own."""


@dataclass(frozen=True)
class Elsewhere:
    """What is known of a graph that another process has loaded. See Graph."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    provider: str

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:  # noqa: ARG002
        """Raises RuntimeError."""
        raise RuntimeError("the graph is in another process")


class Use(Protocol):
    """How the rows of a job go through a graph."""

    graph: Graph

    @property
    def types(self) -> Mapping[str, pa.DataType | None]:
        """Types of the step's outputs; None where the type shows only in a result."""

    @property
    def max_length(self) -> int | None:
        """Tokens after which a row is cut."""

    def prepare(self, rows: pa.Table) -> Prepared:
        """As `Engine.prepare`."""

    def feeds(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        """What the graph is fed with for a batch."""

    def infer(self, batch: Any) -> Any:
        """As `Engine.infer`."""

    def finish(self, outputs: Any) -> Mapping[str, pa.Array]:
        """As `Engine.finish`."""


class GraphEngine:
    """Opens a graph and puts it to use: on numeric columns, or on texts for a step with a task."""

    def __init__(
        self, step: Step, open_graph: Callable[[str, str, int], Graph], use: Callable[[Graph, int], Use]
    ) -> None:
        """`open_graph` takes device, precision and threads; `use` the graph and the threads. Both raise ModelError."""
        self._step = step
        self._open = open_graph
        self._use = use
        self._loaded: Use | None = None

    def load(self, device: str, precision: str, threads: int) -> Description:
        """Load the graph and check the step's inputs and outputs against it. Raises ModelError."""
        graph = self._open(device, precision, threads)
        self._loaded = self._use(graph, threads)
        return Description(self._loaded.types, precision, device, self._loaded.max_length, provider=graph.provider)

    def without_model(self) -> GraphEngine:
        """See ModelEngine."""
        engine, use = GraphEngine(self._step, self._open, self._use), copy.copy(self._require())
        use.graph = Elsewhere(use.graph.inputs, use.graph.outputs, use.graph.provider)
        engine._loaded = use
        return engine

    def prepare(self, rows: pa.Table) -> Prepared:
        """One window. Raises TypeError naming the input where a value is null, ModelError for a column that can't fit."""
        return self._require().prepare(rows)

    def infer(self, batch: Any) -> Any:
        """Run the graph. Raises what the library raises."""
        return self._require().infer(batch)

    def finish(self, outputs: Any) -> Mapping[str, pa.Array]:
        """One Arrow array per output. Raises ModelError for another number of values than rows."""
        return self._require().finish(outputs)

    def _require(self) -> Use:
        if self._loaded is None:
            raise RuntimeError("load() comes before prepare(), infer() and finish()")
        return self._loaded


def check_batches(graph: Graph, step: Step, remedy: str) -> None:
    """Raises ModelError where an input has no axis for the rows, or one of a fixed size; `remedy` says what mends it."""
    for port in graph.inputs.values():
        if port.shape == ():
            raise ModelError(
                f"{step.name}.uri: {step.uri} takes a single value for all rows as its input {port.name}; "
                "make it a constant of the model"
            )
        if port.shape is not None and port.shape[0] is not None:
            raise ModelError(
                f"{step.name}.uri: {step.uri} takes batches of {port.shape[0]} only (input {port}): {remedy}"
            )


def check_outputs(graph: Graph, step: Step) -> None:
    """Raises ModelError for an output that the graph lacks, or that is no tensor."""
    for name in step.outputs:
        port = graph.outputs.get(name)
        where = f"{step.name}.outputs.{name}"
        if port is None:
            raise ModelError(f"{where}: {step.uri} has no such output; {nearest(name, graph.outputs)}")
        if port.dtype is None and port.type != "tensor(string)":
            raise ModelError(
                f"{where}: {step.uri} gives a {port.type}, which is no column: export it so that it gives tensors "
                "(for skl2onnx: options={'zipmap': False})"
            )
