"""The sklearn engine: an estimator or a pipeline of scikit-learn's, as joblib, pickle or skops stored it, called by its own methods.

Also any other library's that has scikit-learn's interface and is installed, such as xgboost's and lightgbm's.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.inputs import contiguous, has_null, is_numeric, take
from batchinfer.engines.location import place_of
from batchinfer.engines.options import SklearnOptions, nearest, parse
from batchinfer.engines.outputs import Outputs, finish
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.engines.protocol import Description, Rows
from batchinfer.engines.trust import check_pickle, reason
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.storage.store import StorageOptions

SKOPS = ".skops"
PICKLES = (".joblib", ".pkl", ".pickle")
METHODS = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score_samples",
    "transform",
)
"""What a step's outputs are called by: methods that take the features alone and give a value for each row."""


def file_of(step: Step) -> Path:
    """The file of a step's model. Raises ModelError where there is none, its kind is unknown, or options don't go with it."""
    where, options = f"{step.name}.uri", parse(SklearnOptions, step)
    path = place_of(step.uri, where)
    if path.suffix not in (SKOPS, *PICKLES):
        raise ModelError(f"{where}: the sklearn engine loads {SKOPS}, {', '.join(PICKLES)} files, not {step.uri}")
    if not path.is_file():
        raise ModelError(f"{where}: there is no file {path}")
    if path.suffix == SKOPS and options.allow_pickle is not None:
        raise ModelError(f"{step.name}.options.allow_pickle: {path} is no pickle: remove it")
    if path.suffix in PICKLES and options.trusted:
        raise ModelError(f"{step.name}.options.trusted: goes with a {SKOPS} file; {path} is a pickle: remove it")
    return path


def check_file(step: Step) -> None:
    """Check that a pickle is the one that was pinned. Raises ModelError, as `file_of` does."""
    path, pinned = file_of(step), parse(SklearnOptions, step).allow_pickle
    if path.suffix in PICKLES:
        _bytes(step, path, pinned)


@dataclass(frozen=True)
class SklearnBatch:
    """Rows as the estimator takes them: an array of shape (rows, features), a list of texts, or a polars frame."""

    rows: int
    features: Any


class SklearnRows:
    """One window: its columns by feature name, in the estimator's order, and what batches of them are."""

    lengths = None
    truncated = None
    row_bytes = None

    def __init__(self, rows: int, columns: Mapping[str, pa.Array], *, named: bool) -> None:
        self._rows = rows
        self._columns = columns
        self._named = named

    def __len__(self) -> int:
        return self._rows

    def batch(self, rows: Rows) -> SklearnBatch:
        """These rows."""
        count = len(range(*rows.indices(self._rows))) if isinstance(rows, slice) else len(rows)
        cut = {name: take(column, rows) for name, column in self._columns.items()}
        if self._named:
            import polars

            return SklearnBatch(count, polars.from_arrow(pa.table(cut)))
        first = next(iter(cut.values()))
        if _is_text(first.type):
            return SklearnBatch(count, first.to_pylist())
        return SklearnBatch(count, np.column_stack([_numbers(column) for column in cut.values()]))


class SklearnEngine:
    """Calls the methods that the step's outputs are named by, with what the step's inputs give.

    Inputs that are named as the features that the estimator was fitted with (`feature_names_in_`) make a frame of these names. Else they
    make a matrix: numbers, fixed-size lists of numbers, and lists of columns side by side in their order; or one column of texts is given
    as a list.
    """

    def __init__(
        self,
        step: Step,
        code: Sequence[str] = (),  # noqa: ARG002 - what a pickle needs must be installed
        storage: StorageOptions | None = None,  # noqa: ARG002 - nor files that rows name
        prepared: PreparedColumns | None = None,  # noqa: ARG002 - columns are taken as they are
    ) -> None:
        self._step = step
        self._options = parse(SklearnOptions, step)
        self._model: Any = None
        self._limited: Any = None
        self._features: tuple[str, ...] | None = None
        """Names that the inputs are brought to; None for a matrix or texts."""
        self._width: int | None = None
        """Columns of the matrix that it was fitted with, where it tells."""

    def load(self, device: str, precision: str, threads: int) -> Description:
        """Load the estimator, which calls with at most `threads` threads from now on.

        Raises ModelError where it isn't what was pinned or trusted, can't be loaded, or lacks an output's method or an input's feature.
        """
        from threadpoolctl import ThreadpoolController

        step = self._step
        if precision != "native":
            raise ModelError(f"{step.name}.precision: the sklearn engine runs at its own precision; remove {precision}")
        path = file_of(step)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            self._model = self._skops(path) if path.suffix == SKOPS else self._unpickled(path)
        for name in step.outputs:
            if not hasattr(self._model, name):
                known = [method for method in METHODS if hasattr(self._model, method)]
                raise ModelError(
                    f"{step.name}.outputs.{name}: {type(self._model).__name__} has no such method; {nearest(name, known)}"
                )
        self._features, self._width = self._named(), getattr(self._model, "n_features_in_", None)
        _limit_jobs(self._model, threads)
        self._limited = ThreadpoolController().wrap(limits=threads)(self._answer)
        return Description(dict.fromkeys(step.outputs), "native", device, applied=_stored_by(told), side_by_side=False)

    def without_model(self) -> SklearnEngine:
        """See ModelEngine."""
        engine = SklearnEngine(self._step)
        engine._features, engine._width = self._features, self._width
        return engine

    def prepare(self, rows: pa.Table) -> SklearnRows:
        """One window.

        Raises TypeError naming the input where a value is null, unless the option `nulls` has it otherwise, and ModelError for a column
        that is no feature.
        """
        columns: dict[str, pa.Array] = {}
        named = self._features is not None
        for name, given in self._step.inputs.items():
            for column in (given,) if isinstance(given, str) else given:
                columns[name if named else column] = self._feature(rows.column(column), name)
        if self._features is not None:
            return SklearnRows(len(rows), {name: columns[name] for name in self._features}, named=True)
        self._check_matrix(columns)
        return SklearnRows(len(rows), columns, named=False)

    def infer(self, batch: SklearnBatch) -> Outputs:
        """Call the methods. Raises what they raise, and ModelError for what is no array."""
        return Outputs(batch.rows, self._limited(batch.features))

    def finish(self, outputs: Outputs) -> Mapping[str, pa.Array]:
        """One Arrow array per output; of shape (n, k) as fixed-size lists of k. Raises ModelError as `outputs.finish` does."""
        return finish(outputs, self._step.outputs, self._step.name)

    def _answer(self, features: Any) -> Mapping[str, NDArray[Any]]:
        with warnings.catch_warnings():
            # Of a matrix in place of the frame that it was fitted on; its columns are in the order that the job says.
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            return {name: self._array(name, getattr(self._model, name)(features)) for name in self._step.outputs}

    def _array(self, name: str, value: Any) -> NDArray[Any]:
        if isinstance(value, list) or hasattr(value, "toarray"):
            kind = "one array for each of its targets" if isinstance(value, list) else "a sparse matrix"
            raise ModelError(f"{self._step.name}.outputs.{name}: gives {kind}, and a column has one value for each row")
        return np.asarray(value)

    def _feature(self, column: pa.ChunkedArray, name: str) -> pa.Array:
        """A column as a feature."""
        array, kind = contiguous(column), column.type
        if pa.types.is_dictionary(kind):
            array, kind = array.dictionary_decode(), kind.value_type
        if not (is_numeric(kind) or _is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            raise ModelError(
                f"{self._step.name}.inputs.{name}: the sklearn engine takes columns of numbers, booleans, texts, or fixed-size lists of "
                f"numbers, not {column.type}"
            )
        if has_null(array) and (self._options.nulls == "refuse" or (_is_text(kind) and self._features is None)):
            raise TypeError(f"input {name} is null")
        if self._features is not None and pa.types.is_fixed_size_list(kind):
            raise ModelError(
                f"{self._step.name}.inputs.{name}: is a feature by name, which takes one value, not {column.type}"
            )
        return array

    def _check_matrix(self, columns: Mapping[str, pa.Array]) -> None:
        """Raise ModelError where the columns are neither one of texts nor a matrix of as many as the estimator was fitted with."""
        where, kinds = f"{self._step.name}.inputs", [column.type for column in columns.values()]
        if any(map(_is_text, kinds)):
            if len(kinds) > 1:
                raise ModelError(
                    f"{where}: features that are not named as the estimator's make a matrix of numbers, or are one column of texts: fit it "
                    "on a frame, and name each input as the feature"
                )
            return
        width = sum(kind.list_size if pa.types.is_fixed_size_list(kind) else 1 for kind in kinds)
        if self._width not in (None, width):
            raise ModelError(f"{where}: give {width} features, and {self._step.uri} was fitted with {self._width}")

    def _named(self) -> tuple[str, ...] | None:
        """The features in the estimator's order where the inputs have their names, None where they are given by order."""
        step, known = self._step, getattr(self._model, "feature_names_in_", None)
        single = all(isinstance(columns, str) for columns in step.inputs.values())
        if known is None or not single or (len(step.inputs) == 1 and not set(step.inputs) <= set(known)):
            return None
        names = tuple(map(str, known))
        unknown = [name for name in step.inputs if name not in names]
        if unknown:
            raise ModelError(
                f"{step.name}.inputs.{unknown[0]}: {step.uri} was fitted without it; {nearest(unknown[0], names)}"
            )
        missing = [name for name in names if name not in step.inputs]
        if missing:
            raise ModelError(
                f"{step.name}.inputs: {step.uri} was fitted with {', '.join(missing)} too: name a column for each"
            )
        return names

    def _unpickled(self, path: Path) -> Any:
        import joblib

        step = self._step
        data = _bytes(step, path, self._options.allow_pickle)
        try:
            return joblib.load(io.BytesIO(data))
        except ModuleNotFoundError as error:
            raise ModelError(
                f"{step.name}.uri: {path} needs the module {error.name}: install it; of the job's own code it can't be loaded, "
                "for which there is the python engine"
            ) from error
        except Exception as error:
            raise ModelError(
                f"{step.name}.uri: {path} can't be read: {type(error).__name__}: {reason(error)}"
            ) from error

    def _skops(self, path: Path) -> Any:
        from skops.io import get_untrusted_types, load

        where = f"{self._step.name}.options.trusted"
        try:
            unknown = sorted(set(get_untrusted_types(file=path)) - set(self._options.trusted))
            if not unknown:
                return load(path, trusted=self._options.trusted)
        except Exception as error:
            raise ModelError(
                f"{self._step.name}.uri: {path} can't be read: {type(error).__name__}: {reason(error)}"
            ) from error
        raise ModelError(
            f"{where}: {path} has types that skops doesn't load unasked, as that could run any code: if you trust whoever made it, "
            f"name them: [{', '.join(unknown)}]"
        )


def _bytes(step: Step, path: Path, pinned: str | None) -> bytes:
    """Of a pickle. Raises ModelError unless it is the pinned one."""
    where = f"{step.name}.options.allow_pickle"
    if pinned is None:
        raise ModelError(
            f"{where}: {path} is a pickle, and loading one can run any code. Store the model with skops.io.dump as *{SKOPS}; or, if you trust "
            f"whoever made it, pin it: options.allow_pickle: {hashlib.sha256(path.read_bytes()).hexdigest()}"
        )
    return check_pickle(path, pinned, where)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _numbers(column: pa.Array) -> NDArray[Any]:
    """Shape (rows, features); nulls as NaN."""
    if pa.types.is_null(column.type):
        return np.full((len(column), 1), np.nan)
    flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    if pa.types.is_boolean(flat.type):
        flat = flat.cast(pa.int8())
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)


def _limit_jobs(model: Any, threads: int) -> None:
    """Have the parts that were asked to work in parallel, such as a forest with n_jobs=-1, do so within the worker's threads."""
    get = getattr(model, "get_params", None)
    asked = get(deep=True) if get is not None else {}
    jobs = {
        name: threads for name, value in asked.items() if name.split("__")[-1] == "n_jobs" and value not in (None, 1)
    }
    if jobs:
        model.set_params(**jobs)


def _stored_by(told: Sequence[warnings.WarningMessage]) -> dict[str, str]:
    """The version that stored the estimator, where it warns that it is another one than runs it."""
    versions = {getattr(each.message, "original_sklearn_version", None) for each in told} - {None}
    return {"stored_by_scikit_learn": ", ".join(sorted(map(str, versions)))} if versions else {}
