"""Ensembles: one answer made of those of several models, which stand in a column each. A null takes no part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchinfer.data.expressions import plain
from batchinfer.engines.derived import DerivedEngine
from batchinfer.engines.inputs import is_number
from batchinfer.errors import ModelError
from batchinfer.job.steps import CombineStep

Outputs = dict[str, pa.Array]


def combine_engine(step: CombineStep) -> DerivedEngine:
    """The engine of a step that combines."""
    weights = np.array(step.weights or [1.0] * len(step.inputs))
    combine = _METHODS[step.combine]

    def answer(rows: pa.Table) -> Mapping[str, pa.Array]:
        members = [plain(rows.column(name)) for name in step.inputs]
        taking = np.array([np.asarray(m.is_valid()) for m in members])  # (members, rows)
        given = combine(step, members, taking, weights)
        given["votes"] = pa.array(np.count_nonzero(taking, axis=0), pa.int32())
        return {name: given[name] for name in step.outputs}

    return DerivedEngine(step.inputs, tuple(step.outputs), answer)


def _mean(step: CombineStep, members: Sequence[pa.Array], taking: NDArray[np.bool_], weights: NDArray[Any]) -> Outputs:
    values, kind = _numbers(step, members, taking)
    return {"value": _array(_means(values, taking, weights), _any(taking), _floating(kind))}


def _max(step: CombineStep, members: Sequence[pa.Array], taking: NDArray[np.bool_], weights: NDArray[Any]) -> Outputs:  # noqa: ARG001 - the greatest value is so at any weight
    values, kind = _numbers(step, members, taking)
    least = -np.inf if values.dtype.kind == "f" else np.iinfo(values.dtype).min
    greatest = np.where(_spread(taking, values), values, least).max(axis=0)
    return {"value": _array(greatest, _any(taking), kind)}


def _soft_vote(
    step: CombineStep, members: Sequence[pa.Array], taking: NDArray[np.bool_], weights: NDArray[Any]
) -> Outputs:
    """As scikit-learn's VotingClassifier with voting="soft": the first of the greatest places in the weighted mean."""
    values, kind = _numbers(step, members, taking)
    if values.ndim != 3:
        raise ModelError(
            f"{step.name}.inputs: soft_vote takes columns of vectors of probabilities, not of {members[0].type}"
        )
    means, voted = _means(values, taking, weights), _any(taking)
    index = means.argmax(axis=1) if means.shape[1] else np.zeros(len(means), np.intp)
    outputs = {
        "value": _array(means, voted, _floating(kind)),
        "index": pa.array(index, pa.int32(), mask=~voted),
        "share": pa.array(means.max(axis=1, initial=0), pa.float64(), mask=~voted),
    }
    if step.labels is not None:
        if means.shape[1] > len(step.labels):
            raise ModelError(
                f"{step.name}.labels: the vectors have {means.shape[1]} places, and there are {len(step.labels)} labels"
            )
        outputs["label"] = pa.array(step.labels).take(pa.array(index, mask=~voted))
    return outputs


def _vote(step: CombineStep, members: Sequence[pa.Array], taking: NDArray[np.bool_], weights: NDArray[Any]) -> Outputs:
    """As scikit-learn's VotingClassifier with voting="hard": of the values with the greatest weight the smallest."""
    if all(is_number(m.type) for m in members):
        common = pa.from_numpy_dtype(np.result_type(*(m.type.to_pandas_dtype() for m in members)))
        members = [m.cast(common) for m in members]
    kind = members[0].type
    if any(m.type != kind for m in members) or pa.types.is_nested(kind):
        told = ", ".join(f"{name}: {m.type}" for name, m in zip(step.inputs, members, strict=True))
        raise ModelError(f"{step.name}.inputs: vote takes columns of one type, texts or numbers, and these are {told}")
    known = pc.unique(pa.concat_arrays(members).drop_null())
    known = known.take(pc.array_sort_indices(known))
    codes = np.array(
        [np.asarray(pc.fill_null(pc.index_in(m, value_set=known), -1)) for m in members], np.int64
    )  # (members, rows), in the values' order
    weighed = np.where(taking, weights[:, None], 0.0)
    support = ((codes[:, None] == codes[None, :]) * weighed[None]).sum(axis=1)
    support = np.where(taking, support, -1.0)
    # Sums of equal weights may differ in their last bits.
    most = support.max(axis=0)
    winner = np.where(support >= most * (1 - 1e-12), codes, np.iinfo(np.int64).max).min(axis=0)
    total, voted = weighed.sum(axis=0), _any(taking)
    return {
        "value": known.take(pa.array(np.where(voted, winner, 0), mask=~voted)),
        "share": pa.array(np.divide(most, total, out=np.zeros_like(total), where=voted), pa.float64(), mask=~voted),
    }


_METHODS: Mapping[str, Callable[[CombineStep, Sequence[pa.Array], NDArray[np.bool_], NDArray[Any]], Outputs]] = {
    "mean": _mean,
    "max": _max,
    "vote": _vote,
    "soft_vote": _soft_vote,
}


def _numbers(
    step: CombineStep, members: Sequence[pa.Array], taking: NDArray[np.bool_]
) -> tuple[NDArray[Any], pa.DataType]:
    """The members' values, shape (members, rows) or of vectors (members, rows, places), and the type of one; zero where null.

    Raises ModelError for columns of anything else, ValueError for vectors of several lengths.
    """
    listed = [_is_list(m.type) for m in members]
    kinds = [m.type.value_type if is_list else m.type for m, is_list in zip(members, listed, strict=True)]
    if len(set(listed)) > 1 or not all(map(is_number, kinds)):
        told = ", ".join(f"{name}: {m.type}" for name, m in zip(step.inputs, members, strict=True))
        raise ModelError(
            f"{step.name}.inputs: {step.combine} takes columns of numbers, or of vectors of numbers, and these are {told}"
        )
    kind = np.result_type(*(k.to_pandas_dtype() for k in kinds))
    if not listed[0]:
        return np.array([np.asarray(m.fill_null(0)) for m in members], kind), pa.from_numpy_dtype(kind)
    lengths = {size for m in members for size in (np.unique(np.asarray(pc.list_value_length(m.drop_null()))))}
    if len(lengths) > 1:
        raise ValueError(
            f"the vectors have {' and '.join(map(str, sorted(lengths)))} places: they must be of one length"
        )
    places = int(lengths.pop()) if lengths else _places(members)
    values = np.zeros((len(members), taking.shape[1], places), kind)
    for at, member in enumerate(members):
        flat = pc.list_flatten(member.drop_null())
        if flat.null_count:
            raise ValueError("a vector has a null among its numbers")
        values[at, taking[at]] = np.asarray(flat).reshape(len(member) - member.null_count, places)
    return values, pa.list_(pa.from_numpy_dtype(kind), places if _fixed(members) else -1)


def _means(values: NDArray[Any], taking: NDArray[np.bool_], weights: NDArray[Any]) -> NDArray[np.float64]:
    weighed = np.where(taking, weights[:, None], 0.0)
    total = weighed.sum(axis=0)
    total[total == 0] = 1.0
    weighed = weighed / total
    return cast("NDArray[np.float64]", (values * _spread(weighed, values)).sum(axis=0, dtype=np.float64))


def _spread(by_row: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Figures of shape (members, rows) as they go with the values."""
    return by_row.reshape(*by_row.shape, *([1] * (values.ndim - 2)))


def _any(taking: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows have a member that takes part, shape (rows,)."""
    return np.asarray(np.count_nonzero(taking, axis=0) > 0)


def _array(values: NDArray[Any], valid: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """Values of shape (rows,) or (rows, places) as an array of a type; null where not valid."""
    if not _is_list(kind):
        return pa.array(values, mask=~valid).cast(kind, safe=False)
    flat = pa.array(values.reshape(-1)).cast(kind.value_type, safe=False)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, kind.list_size, mask=pa.array(~valid))
    offsets = np.arange(len(values) + 1) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, mask=pa.array(~valid))


def _floating(kind: pa.DataType) -> pa.DataType:
    """The type of a mean of values of a type."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_floating(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_floating(kind.value_type))
    return kind if pa.types.is_floating(kind) else pa.float64()


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _fixed(members: Sequence[pa.Array]) -> bool:
    return all(pa.types.is_fixed_size_list(m.type) for m in members)


def _places(members: Sequence[pa.Array]) -> int:
    return next((m.type.list_size for m in members if pa.types.is_fixed_size_list(m.type)), 0)
