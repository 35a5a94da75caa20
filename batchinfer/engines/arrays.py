"""Numeric columns as the arrays that a graph is fed with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.graph import Graph, Port, check_outputs
from batchinfer.engines.images import Images
from batchinfer.engines.inputs import check_numeric, columns_of, contiguous, matrix, to_numpy
from batchinfer.engines.outputs import Outputs, finish, single
from batchinfer.engines.pixels import ImageColumns
from batchinfer.engines.protocol import Rows
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step


@dataclass(frozen=True)
class ArrayBatch:
    """Arrays by input name, each with `rows` rows along its first axis, of the graph's own types and shapes."""

    rows: int
    arrays: Mapping[str, NDArray[Any]]


class ArrayRows:
    """One window as arrays, which share the memory of the Arrow columns where no conversion is needed, and images."""

    lengths = None
    truncated = None

    def __init__(
        self,
        rows: int,
        arrays: Mapping[str, NDArray[Any] | Images],
        ports: Mapping[str, Port],
        row_bytes: int | None = None,
    ) -> None:
        self._rows = rows
        self._arrays = arrays
        self._ports = ports
        self.row_bytes = row_bytes

    def __len__(self) -> int:
        return self._rows

    def batch(self, rows: Rows) -> ArrayBatch:
        """These rows, in the types that the graph takes; views where they can be. Raises what reading and decoding images does."""
        count = len(range(*rows.indices(self._rows))) if isinstance(rows, slice) else len(rows)
        cut = {
            name: np.ascontiguousarray(array[rows], dtype=self._ports[name].dtype)
            for name, array in self._arrays.items()
        }
        return ArrayBatch(count, cut)


class Columns:
    """Numeric columns, and columns of images, through a graph."""

    max_length = None

    def __init__(self, step: Step, graph: Graph, images: ImageColumns) -> None:
        """Check names and types. Raises ModelError."""
        self._step, self._images = step, images
        images.files.open()
        self.graph = graph
        _check_inputs(graph, step)
        check_outputs(graph, step)
        self.types: Mapping[str, pa.DataType | None] = dict.fromkeys(step.outputs)

    def prepare(self, rows: pa.Table) -> ArrayRows:
        """Columns of numbers as (rows,), fixed-size lists of k and lists of k columns as (rows, k), or as the graph shapes k; images when a
        batch takes them.

        Raises TypeError naming the input where a value is null, ValueError where it doesn't fit into the graph's integers,
        and ModelError for a column that can't be the input.
        """
        columns = {name: contiguous(rows.column(name)) for name in columns_of(self._step)}
        arrays: dict[str, NDArray[Any] | Images] = {}
        for name, named in self._step.inputs.items():
            one = isinstance(named, str)
            parts = [columns[column] for column in ([named] if isinstance(named, str) else named)]
            where = f"{self._step.name}.inputs.{name}"
            if one and self._images.takes(parts[0]):
                arrays[name] = self._images.images(parts[0], name)
                _check_images(self._images, self.graph.inputs[name], where)
                continue
            check_numeric(parts, name, where, f"the {self._step.engine} engine", single=one)
            port = self.graph.inputs[name]
            if pa.types.is_null(parts[0].type):  # no rows: a null among them was raised
                arrays[name] = np.empty((0, *(n or 1 for n in (port.shape or (0,))[1:])), port.dtype)
                continue
            array = to_numpy(parts[0]) if one else matrix(parts)
            _check_type(array, port, name, where)
            arrays[name] = _shaped(array, port, where)
        return ArrayRows(rows.num_rows, arrays, self.graph.inputs, self._images.row_bytes(arrays))

    def feeds(self, batch: ArrayBatch) -> Mapping[str, NDArray[Any]]:
        """See Use."""
        return batch.arrays

    def infer(self, batch: ArrayBatch) -> Outputs:
        """Run the graph. Raises what the library raises."""
        return Outputs(batch.rows, self.graph.run(self.feeds(batch), list(self._step.outputs)))

    def finish(self, outputs: Outputs) -> Mapping[str, pa.Array]:
        """One Arrow array per output: (n,) and (n, 1) become numbers, (n, k) lists of fixed size."""
        values = {name: single(value) for name, value in outputs.values.items()}
        return finish(Outputs(outputs.rows, values), self._step.outputs, self._step.name)


def _check_inputs(graph: Graph, step: Step) -> None:
    if set(step.inputs) != set(graph.inputs):
        known = "; ".join(map(str, graph.inputs.values())) or "no inputs"
        raise ModelError(
            f"{step.name}.inputs: {step.uri} takes {known}, not {', '.join(step.inputs)}: name all of them, and no other"
        )
    for name, columns in step.inputs.items():
        port, where = graph.inputs[name], f"{step.name}.inputs.{name}"
        if port.dtype is None:
            raise ModelError(f"{where}: {step.uri} takes a {port.type}; this engine feeds numbers and booleans")
        if isinstance(columns, str) or port.shape is None:
            continue
        if len(port.shape) < 2 or (None not in port.shape[1:] and math.prod(_sizes(port)) != len(columns)):
            raise ModelError(f"{where}: {step.uri} takes {port}, and {len(columns)} columns are named")


def _sizes(port: Port) -> list[int]:
    """Sizes of the axes behind the rows, those of any size left out."""
    return [size for size in (port.shape or ())[1:] if size is not None]


def _check_images(images: ImageColumns, port: Port, where: str) -> None:
    given = f"images are {images.dtype} of shape ({', '.join(map(str, images.shape))}) as the step's options.images have them"
    assert port.dtype is not None
    if not (np.can_cast(images.dtype, port.dtype) or images.dtype.kind == port.dtype.kind == "f"):
        remedy = "set scale to null there" if port.dtype == np.uint8 else "cast it in the model"
        raise ModelError(f"{where}: the model takes {port}, and {given}: {remedy}")
    if port.shape is None:
        return
    wanted = port.shape[1:]
    if len(wanted) != len(images.shape) or any(n not in (None, m) for n, m in zip(wanted, images.shape, strict=True)):
        raise ModelError(f"{where}: the model takes {port}, and {given}: change size, crop, mode or layout there")


def _check_type(array: NDArray[Any], port: Port, name: str, where: str) -> None:
    assert port.dtype is not None
    have, want = array.dtype.kind, port.dtype.kind
    if (have == "f" and want != "f") or (want == "b" and have != "b"):
        raise ModelError(f"{where}: the model takes {port}, and the column is {array.dtype}: cast one of them")
    if want in "iu" and have in "iu" and not np.can_cast(array.dtype, port.dtype) and array.size:
        limits = np.iinfo(port.dtype)
        for value in (int(array.min()), int(array.max())):
            if not limits.min <= value <= limits.max:
                raise ValueError(f"input {name} has a value that {port.dtype} can't hold")


def _shaped(array: NDArray[Any], port: Port, where: str) -> NDArray[Any]:
    """The array in the shape that the port takes, with the rows along the first axis."""
    if port.shape is None:
        return array
    wanted = port.shape[1:]
    if None not in wanted and math.prod(_sizes(port)) == math.prod(array.shape[1:]):
        return array.reshape(len(array), *_sizes(port)) if array.shape[1:] != wanted else array
    if len(wanted) == len(array.shape[1:]) == 1 and wanted[0] is None:
        return array
    given = "single numbers" if array.ndim == 1 else f"lists of {array.shape[1]}"
    raise ModelError(f"{where}: the model takes {port}, and the column holds {given}")
