"""The python engine: any class of the user's, built once per worker and called with batches, or any function.

A class may have a static or class method `prepare(batch)`: it is called without the object, beside the calls on batches before it, or in
another process where the step has a pool of its own. It takes what `__call__` would, and gives values by any names, one for each row;
`__call__` then takes a dict of those.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.inputs import columns_of, contiguous, has_null, is_numeric, matrix, take, to_numpy
from batchinfer.engines.outputs import Outputs, finish, is_tensor, tensor_to_numpy
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.engines.protocol import Description, Rows
from batchinfer.engines.sources import load_class, load_named
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.storage.store import StorageOptions


@dataclass(frozen=True)
class PythonBatch:
    """Rows as the class is called with them: a dict, a pyarrow table, or a polars frame."""

    rows: int
    value: Any


class PythonRows:
    """One window for the python engine. Numbers are made numpy arrays once a window; batches are views of them."""

    lengths = None
    truncated = None
    row_bytes = None

    def __init__(self, table: pa.Table, step: Step, own: Callable[[Any], Any] | None = None) -> None:
        self._step = step
        self._own = own
        """The class's own preparation."""
        self._rows = table.num_rows
        self._columns = {name: contiguous(table.column(name)) for name in columns_of(step)}
        self._arrays: dict[str, NDArray[Any]] = {}
        if step.input_format == "dict":
            for name, columns in step.inputs.items():
                array = self._array([self._columns[column] for column in _listed(columns)], columns)
                if array is not None:
                    self._arrays[name] = array

    def __len__(self) -> int:
        return int(self._rows)

    def batch(self, rows: Rows) -> PythonBatch:
        """These rows in the step's input format.

        A dict has, by input name: for numbers without nulls in these rows a numpy array of shape (rows,), for fixed-
        size lists of k numbers and for a list of k columns shape (rows, k); for everything else a list with None.
        Arrays may be read-only views of the input. Where the class prepares its rows, what that gives for these.
        Raises what it raises, and ModelError where it gives no value for each row.
        """
        count = len(range(*rows.indices(self._rows))) if isinstance(rows, slice) else len(rows)
        given = self._given(count, rows)
        if self._own is None:
            return given
        values = _by_name(self._own(given.value))
        if values is None or any(len(value) != count for value in values.values()):
            told = "no dict" if values is None else f"{ {name: len(value) for name, value in values.items()} } values"
            raise ModelError(
                f"{self._step.name}.uri: prepare of {self._step.uri} gave {told} for {count} rows: it must return a dict of "
                "as many values as there are rows"
            )
        return PythonBatch(count, {name: _own(value) for name, value in values.items()})

    def _given(self, count: int, rows: Rows) -> PythonBatch:
        """These rows in the step's input format."""
        if self._step.input_format == "dict":
            return PythonBatch(count, {name: self._values(name, rows) for name in self._step.inputs})
        table = pa.table(self._named(rows))
        if self._step.input_format == "arrow":
            return PythonBatch(count, table)
        import polars

        return PythonBatch(count, polars.from_arrow(table))

    def _named(self, rows: Rows) -> dict[str, pa.Array]:
        """Columns by input name; those of a list of columns keep their own."""
        named: dict[str, pa.Array] = {}
        for name, columns in self._step.inputs.items():
            own = {name: columns} if isinstance(columns, str) else {column: column for column in columns}
            named.update({new: take(self._columns[column], rows) for new, column in own.items()})
        return named

    def _values(self, name: str, rows: Rows) -> Any:
        if name in self._arrays:
            return self._arrays[name][rows]
        columns = self._step.inputs[name]
        cut = [take(self._columns[column], rows) for column in _listed(columns)]
        array = self._array(cut, columns)
        if array is not None:
            return array
        lists = [column.to_pylist() for column in cut]
        return lists[0] if isinstance(columns, str) else [list(values) for values in zip(*lists, strict=True)]

    @staticmethod
    def _array(columns: list[pa.Array], named: str | Sequence[str]) -> NDArray[Any] | None:
        """The columns of one input as an array; None where they are not numbers or have nulls."""
        if not all(is_numeric(column.type) and not has_null(column) for column in columns):
            return None
        return to_numpy(columns[0]) if isinstance(named, str) else matrix(columns)


class PythonEngine:
    """Calls an object of the user's class with each batch; `uri` is `module:Class`, `options` are its arguments. Or calls a function."""

    def __init__(
        self,
        step: Step,
        code: Sequence[str] = (),
        storage: StorageOptions | None = None,  # noqa: ARG002 - a class reads files as it likes
        prepared: PreparedColumns | None = None,  # noqa: ARG002 - its own code may do anything
    ) -> None:
        self._step = step
        self._code = code
        self._model: Any = None
        self._prepares = False
        """Whether the class prepares its rows."""
        self._class: type | None = None

    def load(self, device: str, precision: str, threads: int) -> Description:  # noqa: ARG002 - the class's own business
        """Import the class and build it: `Class(**options)`, with `device` where it has a parameter of this name; or import the function.

        Raises ModelError where it can't be imported, called, or built with these options; what its own `__init__`
        raises is raised as it is.
        """
        step = self._step
        if precision != "native":
            raise ModelError(f"{step.name}.precision: the python engine runs at its own precision; remove {precision}")
        named = load_named(step.uri, self._code, f"{step.name}.uri")
        if isinstance(named, type):
            self._model = self._built(named, device)
            self._class, self._prepares = named, _prepares(named)
        else:
            self._model = self._bound(named)
        return Description(dict.fromkeys(step.outputs), "native", device, side_by_side=False)

    def _built(self, cls: type, device: str) -> Any:
        step = self._step
        if not any("__call__" in vars(ancestor) for ancestor in cls.__mro__):
            raise ModelError(f"{step.name}.uri: {step.uri} needs a method __call__(self, batch)")
        options = dict(step.options)
        signature = inspect.signature(cls)
        if "device" in signature.parameters:
            options.setdefault("device", device)
        try:
            signature.bind(**options)
        except TypeError as error:
            raise ModelError(f"{step.name}.options: {step.uri} can't be built with them: {error}") from error
        return cls(**options)

    def _bound(self, function: Any) -> Any:
        """A function of the batch with the options as its other arguments."""
        step = self._step
        if not callable(function):
            raise ModelError(f"{step.name}.uri: {step.uri} is neither a class nor a function")
        try:
            inspect.signature(function).bind(None, **step.options)
        except TypeError as error:
            raise ModelError(
                f"{step.name}.options: {step.uri} can't be called with a batch and them: {error}"
            ) from error
        return functools.partial(function, **step.options)

    def without_model(self) -> PythonEngine:
        """See ModelEngine."""
        engine = PythonEngine(self._step, self._code)
        engine._prepares = self._prepares
        return engine

    def prepare(self, rows: pa.Table) -> PythonRows:
        """One window; never fails for a row, since what the class takes is its own business. Raises ModelError where a class that
        prepares its rows can't be imported here.
        """
        if not self._prepares:
            return PythonRows(rows, self._step)
        if self._class is None:
            self._class = load_class(self._step.uri, self._code, f"{self._step.name}.uri")
        return PythonRows(rows, self._step, self._class.prepare)  # type: ignore[attr-defined]

    def infer(self, batch: PythonBatch) -> Outputs:
        """Call the object. Raises what it raises, and ModelError where it returns neither a dict nor a table."""
        values = _by_name(self._model(batch.value))
        if values is None:
            raise ModelError(f"{self._step.name}.uri: {self._step.uri} must return a dict of values by output name")
        # A class may fill the same array in every call, and the next call runs while `finish` converts this one.
        return Outputs(batch.rows, {name: _own(value) for name, value in values.items()})

    def finish(self, outputs: Outputs) -> Mapping[str, pa.Array]:
        """One Arrow array per output.

        Raises ModelError for a missing output and for another number of values than rows.
        """
        return finish(outputs, self._step.outputs, self._step.name)


def _prepares(cls: type) -> bool:
    """Whether a class prepares its rows: a method of that name which takes an object, or something else, is the class's own business."""
    found = inspect.getattr_static(cls, "prepare", None)
    if not isinstance(found, staticmethod | classmethod):
        return False
    return list(inspect.signature(getattr(cls, "prepare")).parameters) == ["batch"]  # noqa: B009 - not every class has it


def _listed(columns: str | Sequence[str]) -> Sequence[str]:
    return (columns,) if isinstance(columns, str) else columns


def _own(value: Any) -> Any:
    if is_tensor(value):
        value = tensor_to_numpy(value)
    return value.copy() if isinstance(value, np.ndarray) else value


def _by_name(value: Any) -> Mapping[str, Any] | None:
    """Values by output name, from a dict, a pyarrow table or batch, or a polars frame; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, pa.Table | pa.RecordBatch):
        return dict(zip(value.schema.names, value.columns, strict=True))
    if type(value).__module__.partition(".")[0] == "polars" and hasattr(value, "get_columns"):
        return {series.name: series for series in value.get_columns()}
    return None
