"""The mlflow engine: an MLflow model of any flavor, called as `mlflow.pyfunc` calls it, in the environment that the worker has."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.engines.inputs import contiguous, has_null, take
from batchinfer.engines.location import place_of
from batchinfer.engines.mlflow_folder import PREDICT, MlflowFolder, mismatches, read_folder
from batchinfer.engines.mlflow_inputs import as_asked, fields_of, misfit, tensor, wrong_names
from batchinfer.engines.mlflow_registry import quiet
from batchinfer.engines.options import MlflowOptions, nearest, parse
from batchinfer.engines.outputs import Outputs, finish
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.engines.protocol import Description, Rows
from batchinfer.engines.trust import reason
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.storage.store import StorageOptions


def folder_of(step: Step) -> MlflowFolder:
    """The folder of a step's model. Raises ModelError where it is none."""
    where = f"{step.name}.uri"
    path = place_of(step.uri, where)
    if not path.is_dir():
        raise ModelError(f"{where}: there is no folder {path}: give that of an MLflow model, which has a file MLmodel")
    return read_folder(path, where)


def check_folder(step: Step) -> None:
    """Check the names that a step gives against the model's signature, and that its folder is the one that was pinned. Raises ModelError."""
    folder, options = folder_of(step), parse(MlflowOptions, step)
    signature = folder.signature
    wrong = wrong_names(step, signature)
    known = signature.output_names
    wrong += [
        f"{step.name}.outputs.{name}: is none of the model's outputs; {nearest(name, known)}"
        for name in step.outputs
        if known is not None and name not in known
    ]
    wrong += [
        f"{step.name}.options.params.{name}: is none of the model's parameters; {nearest(name, signature.params)}"
        for name in options.params
        if name not in signature.params
    ]
    if wrong:
        raise ModelError("\n".join(wrong))
    _check_pinned(step, folder, options.allow_pickle)


def check_columns(step: Step, schema: pa.Schema) -> None:
    """Check the types of those columns of the input that the model takes. Raises ModelError."""
    signature = folder_of(step).signature
    wrong = []
    for name, asked in fields_of(step, signature).items():
        columns = _columns(step, name)
        if all(column in schema.names for column in columns):  # else it is computed by another step
            wrong.append(misfit(step, name, asked, {column: schema.field(column).type for column in columns}))
    if told := [each for each in wrong if each is not None]:
        raise ModelError("\n".join(told))


@dataclass(frozen=True)
class MlflowBatch:
    """Rows as the model takes them: a pandas frame, an array, or arrays by name."""

    rows: int
    data: Any


class MlflowRows:
    """One window: its columns by the model's input, and what batches of them are."""

    lengths = None
    row_bytes = None
    truncated = None

    def __init__(
        self,
        rows: int,
        columns: Mapping[str, Mapping[str, pa.Array]],
        make: Callable[[Mapping[str, Mapping[str, pa.Array]]], Any],
    ) -> None:
        self._rows, self._columns, self._make = rows, columns, make

    def __len__(self) -> int:
        return self._rows

    def batch(self, rows: Rows) -> MlflowBatch:
        """These rows."""
        count = len(range(*rows.indices(self._rows))) if isinstance(rows, slice) else len(rows)
        cut = {name: {c: take(array, rows) for c, array in given.items()} for name, given in self._columns.items()}
        return MlflowBatch(count, self._make(cut))


class MlflowEngine:
    """Gives the model what its signature asks for: a frame of named columns, an array, or arrays by name; without one, a frame of the inputs."""

    def __init__(
        self,
        step: Step,
        code: Sequence[str] = (),  # noqa: ARG002 - a model brings its own
        storage: StorageOptions | None = None,  # noqa: ARG002 - its inputs name no files
        prepared: PreparedColumns | None = None,  # noqa: ARG002 - columns are taken as they are
    ) -> None:
        self._step, self._options = step, parse(MlflowOptions, step)
        signature = folder_of(step).signature
        self._fields, self._outputs = fields_of(step, signature), signature.output_names
        self._predict: Any = None

    def load(self, device: str, precision: str, threads: int) -> Description:
        """Load the model, which calls with at most `threads` threads from now on, where threadpoolctl is installed.

        Raises ModelError where it isn't what was pinned or can't be loaded.
        """
        step = self._step
        if precision != "native":
            raise ModelError(f"{step.name}.precision: the mlflow engine runs a model as it is; remove {precision}")
        folder = folder_of(step)
        _check_pinned(step, folder, self._options.allow_pickle)
        differs = mismatches(folder, platform.python_version())
        try:
            quiet()
            from mlflow import pyfunc

            model = pyfunc.load_model(str(folder.path), suppress_warnings=True)
        except Exception as error:  # any library's
            made = f"; it was made with {'; '.join(differs)}" if differs else ""
            raise ModelError(
                f"{step.name}.uri: {folder.path} can't be loaded: {type(error).__name__}: {reason(error)}{made}"
            ) from error
        self._predict = _limited(model.predict, threads)
        applied = {"differs_from_where_it_was_made": differs} if differs else {}
        return Description(dict.fromkeys(step.outputs), "native", device, applied=applied, side_by_side=False)

    def without_model(self) -> MlflowEngine:
        """See ModelEngine."""
        return MlflowEngine(self._step)

    def prepare(self, rows: pa.Table) -> MlflowRows:
        """One window.

        Raises TypeError naming the input where a value is null, unless the option `nulls` has it otherwise, ModelError for a column that
        may lose values in the type that the signature asks for, and ValueError for a value that does.
        """
        columns: dict[str, dict[str, pa.Array]] = {}
        for name, asked in self._fields.items():
            given = {column: contiguous(rows.column(column)) for column in _columns(self._step, name)}
            if wrong := misfit(self._step, name, asked, {column: array.type for column, array in given.items()}):
                raise ModelError(wrong)
            holds_nulls = asked is None or asked.kind not in ("boolean", "integer", "long")
            for array in given.values():
                if has_null(array) and (self._options.nulls == "refuse" or not holds_nulls):
                    raise TypeError(f"input {name} is null")
            columns[name] = {column: as_asked(array, asked) for column, array in given.items()}
        return MlflowRows(len(rows), columns, self._data)

    def infer(self, batch: MlflowBatch) -> Outputs:
        """Call the model. Raises what it raises."""
        data = (
            batch.data.copy(deep=False) if hasattr(batch.data, "columns") else batch.data
        )  # it may add columns to its frame
        return Outputs(batch.rows, self._named(self._predict(data, params=dict(self._options.params))))

    def finish(self, outputs: Outputs) -> Mapping[str, pa.Array]:
        """One Arrow array per output; of shape (n, k) as fixed-size lists of k. Raises ModelError as `outputs.finish` does."""
        return finish(outputs, self._step.outputs, self._step.name)

    def _data(self, columns: Mapping[str, Mapping[str, pa.Array]]) -> Any:
        """A batch's columns as the model takes them."""
        fields = self._fields
        arrays = {
            name: tensor(columns[name], asked)
            for name, asked in fields.items()
            if asked is not None and asked.is_tensor
        }
        if arrays:
            return (
                arrays
                if all(asked is not None and asked.name for asked in fields.values())
                else next(iter(arrays.values()))
            )
        flat = {}
        for name, given in columns.items():
            for column, array in given.items():
                flat[name if len(given) == 1 else column] = array
        return pa.table(flat).to_pandas()

    def _named(self, found: Any) -> Mapping[str, Any]:
        """What the model gave, by the names of its outputs."""
        if hasattr(found, "columns"):
            return {str(name): _values(found[name]) for name in found.columns}
        if isinstance(found, Mapping):
            return {str(name): _values(value) for name, value in found.items()}
        names, values = self._outputs or (PREDICT,), _values(found)
        if len(names) == 1:
            return {names[0]: values, PREDICT: values}
        wide = np.asarray(values)
        if wide.ndim != 2 or wide.shape[1] != len(names):
            raise ModelError(
                f"{self._step.name}.outputs: the model's signature has {', '.join(names)}, and it gave values of shape {wide.shape}"
            )
        return {name: wide[:, n] for n, name in enumerate(names)}


def _check_pinned(step: Step, folder: MlflowFolder, pinned: str | None) -> None:
    """Raise ModelError unless the folder is the pinned one: its own files say which code loads them, whatever flavor it has."""
    option, digest = f"{step.name}.options.allow_pickle", folder.digest()
    if pinned is None:
        raise ModelError(
            f"{option}: loading an MLflow model can run any code, whatever its flavor. If you trust whoever made {folder.path}, pin it: "
            f"options.allow_pickle: {digest}"
        )
    if pinned != digest:
        raise ModelError(
            f"{option}: {folder.path} has the digest {digest}, and {pinned} is pinned: it is another model, or a file in it was changed. "
            "Bring the files back, or pin these if you trust whoever made them"
        )


def _columns(step: Step, name: str) -> tuple[str, ...]:
    given = step.inputs[name]
    return (given,) if isinstance(given, str) else tuple(given)


def _values(found: Any) -> Any:
    """A column as `outputs.finish` takes it; NaN stays what it is, where numpy holds the numbers."""
    if not hasattr(found, "dtype") or not hasattr(found, "to_numpy"):
        return found
    if isinstance(found.dtype, np.dtype) and found.dtype.kind in "biuf":
        return found.to_numpy()
    return pa.array(found, from_pandas=True)


def _limited(predict: Callable[..., Any], threads: int) -> Callable[..., Any]:
    if importlib.util.find_spec("threadpoolctl") is None:
        return predict
    from threadpoolctl import ThreadpoolController

    limited: Callable[..., Any] = ThreadpoolController().wrap(limits=threads)(predict)
    return limited
