"""The quality gate: whether a candidate's outputs agree with full precision's on the same rows. Pure functions of Arrow arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray

from batchinfer.errors import GateError
from batchinfer.job.steps import Gate
from batchinfer.measure import intervals
from batchinfer.measure.intervals import Interval
from batchinfer.measure.verdict import Check, Verdict

LEAST_ROWS = 32
"""With fewer comparable rows of a larger job nothing is decided."""
MOST_NEIGHBOURS = 2048
"""Rows among which nearest neighbours are looked for; the work grows with the square."""
_MEAN_COSINE, _LOW_COSINE, _AGREEMENT = 0.995, 0.99, 0.97
_RELATIVE_ERROR, _HIGH_RELATIVE_ERROR = 0.01, 0.05
_DROP = 0.01
_LOW = 0.01


def compare(
    reference: Mapping[str, pa.Array],
    candidate: Mapping[str, pa.Array],
    gate: Gate,
    population: int,
    labels: pa.Array | None = None,
    left_out: int = 0,
    lost: int = 0,
) -> Verdict:
    """Judge a candidate's outputs by full precision's.

    Args:
        reference: full precision's outputs by name, each of length n, row by row those of `candidate`.
        candidate: as `reference`.
        gate: what the job file says.
        population: rows of the job: where the sample is all of them, nothing is uncertain.
        labels: the truth, of length n; nulls say nothing. None where the job names no label.
        left_out: rows of the sample that have no outputs here; counted with those that full precision gives no finite value for.
        lost: rows that full precision answered, and on which the candidate raised.

    Raises GateError where too few rows can be compared, and where the metric or the label doesn't suit the outputs.

    """
    count = len(next(iter(reference.values()), ()))
    good = np.logical_and.reduce([_sound(a) for a in reference.values()]) if reference else np.zeros(0, bool)
    answered = np.logical_and.reduce([_sound(candidate[name]) for name in reference]) if reference else good
    lost += int((good & ~answered).sum())
    out, kept = left_out + int((~good).sum()), good & answered
    rows = int(kept.sum())
    if rows == 0 and lost:
        return Verdict((), rows, out, lost)
    if (rows < LEAST_ROWS and rows + out + lost < population) or rows == 0:
        raise GateError(
            f"only {rows:,} of the {count + left_out:,} sampled rows have outputs that can be compared, and {LEAST_ROWS} are needed: "
            "look at why the others have none, or raise gate.sample"
        )
    mask, population = pa.array(kept), max(rows, population - out)
    full = {name: a.filter(mask) for name, a in reference.items()}
    other = {name: candidate[name].filter(mask) for name in reference}
    metrics = _metrics(full, gate.metric)
    checks: list[Check] = []
    figures: dict[str, Interval] = {}
    for name, metric in metrics.items():
        if metric == "cosine":
            checks += _cosine(name, full[name], other[name], gate, population, figures)
        elif metric == "agreement":
            checks.append(_agreement(name, full[name], other[name], gate, population, figures))
        elif metric == "relative_error":
            checks += _relative_error(name, full[name], other[name], gate, population)
        else:
            error = np.abs(_numbers(full[name]) - _numbers(other[name]))
            figures[f"{name}: mean absolute error"] = intervals.mean(error, population)
    if labels is not None:
        checks.append(_against_truth(metrics, full, other, labels.filter(mask), population))
    return Verdict(tuple(checks), rows, out, lost, figures)


def _metrics(outputs: Mapping[str, pa.Array], asked: str) -> dict[str, str]:
    """The metric of each output: as asked where it suits, else by the kind of value; numbers beside labels are their scores."""
    kinds = {name: _kind(a.type) for name, a in outputs.items()}
    own = {"vector": "cosine", "label": "agreement", "number": "relative_error"}
    if asked == "auto":
        own["number"] = "score" if "label" in kinds.values() else "relative_error"
        return {name: own[kind] for name, kind in kinds.items()}
    suits = {
        "cosine": ("vector",),
        "agreement": ("vector", "label"),
        "relative_error": ("vector", "number"),
    }[asked]
    chosen = {
        name: asked if kind in suits else ("score" if kind == "number" else own[kind]) for name, kind in kinds.items()
    }
    if asked not in chosen.values():
        raise GateError(
            f"gate.metric: {asked} is for {' and '.join(suits)} outputs, and there are "
            f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}: write auto, or a metric that suits one of them"
        )
    return chosen


def _kind(kind: pa.DataType) -> str:
    if pt.is_fixed_size_list(kind) or pt.is_list(kind) or pt.is_large_list(kind):
        return "vector" if pt.is_floating(kind.value_type) else "label"
    return "number" if pt.is_floating(kind) else "label"


def _sound(values: pa.Array) -> NDArray[np.bool_]:
    """Which values are there and finite, shape (n,)."""
    there = np.asarray(values.is_valid().to_numpy(zero_copy_only=False), bool)
    if pt.is_floating(values.type):
        there &= np.isfinite(_numbers(values))
    elif _kind(values.type) == "vector":
        there &= np.array([row is not None and bool(np.isfinite(row).all()) for row in _rows(values)], bool)
    return there


def _numbers(values: pa.Array) -> NDArray[np.float64]:
    return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _rows(values: pa.Array) -> list[NDArray[np.float64] | None]:
    """Each list of numbers as an array; None for a null, NaN for a null inside."""
    return [None if v is None else np.array([np.nan if x is None else x for x in v], float) for v in values.to_pylist()]


def _paired(reference: pa.Array, candidate: pa.Array) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Two columns of vectors without nulls; where lengths differ, the candidate's vector stands as zeros."""
    full = [row for row in _rows(reference) if row is not None]
    other = [row for row in _rows(candidate) if row is not None]
    return full, [b if len(a) == len(b) else np.zeros(len(a)) for a, b in zip(full, other, strict=True)]


def _cosine(
    name: str, reference: pa.Array, candidate: pa.Array, gate: Gate, population: int, figures: dict[str, Interval]
) -> list[Check]:
    full, other = _paired(reference, candidate)
    cosines = np.array([_alike(a, b) for a, b in zip(full, other, strict=True)])
    least = _MEAN_COSINE if gate.min is None else gate.min
    # A minimum of one's own moves the tail's along: twice as far from 1, as by default.
    tail = 1 - (1 - least) * (1 - _LOW_COSINE) / (1 - _MEAN_COSINE)
    if len({len(v) for v in full}) == 1 and len(full) > 1:
        same = _same_neighbours(np.stack(full[:MOST_NEIGHBOURS]), np.stack(other[:MOST_NEIGHBOURS]))
        figures[f"{name}: agreement of the nearest neighbour"] = intervals.proportion(
            int(same.sum()), len(same), max(len(same), population)
        )
    return [
        Check(name, "mean cosine", *intervals.mean(cosines, population), least),
        Check(
            name, "1st percentile of the cosine", *intervals.low_percentile(cosines, _LOW, population), round(tail, 12)
        ),
    ]


def _alike(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    if lengths == 0:
        return float(np.array_equal(first, second))
    return float(np.clip(first @ second / lengths, -1.0, 1.0))


def _same_neighbours(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each row's nearest other row (by cosine) is the nearest by full precision too; equals of that count as it."""
    nearest = _similarities(candidate).argmax(axis=1)
    full = _similarities(reference)
    found: NDArray[np.bool_] = full[np.arange(len(full)), nearest] >= full.max(axis=1) - 1e-9
    return found


def _similarities(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
    alike: NDArray[np.float64] = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    return alike


def _agreement(
    name: str, reference: pa.Array, candidate: pa.Array, gate: Gate, population: int, figures: dict[str, Interval]
) -> Check:
    errors: list[float] = []
    if _kind(reference.type) == "vector":  # scores of classes: the greatest is the label
        full, other = _paired(reference, candidate)
        same = [_best(a) == _best(b) for a, b in zip(full, other, strict=True)]
        errors = [float(np.abs(a - b).mean()) for a, b in zip(full, other, strict=True) if len(a)]
    else:
        same = [_equal(a, b, errors) for a, b in zip(reference.to_pylist(), candidate.to_pylist(), strict=True)]
    if errors:
        figures[f"{name}: mean absolute error of scores"] = intervals.mean(
            np.array(errors), max(len(errors), population)
        )
    least = _AGREEMENT if gate.min is None else gate.min
    return Check(name, "agreement", *intervals.proportion(sum(same), len(same), population), least)


def _best(scores: NDArray[np.float64]) -> int:
    return int(scores.argmax()) if len(scores) else -1


def _equal(first: Any, second: Any, errors: list[float]) -> bool:
    """Whether two values are equal but for the floating numbers in them, whose differences go into `errors`."""
    if isinstance(first, float) and isinstance(second, float):
        errors.append(abs(first - second))
        return True
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_equal(first[key], second[key], errors) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(_equal(a, b, errors) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def _relative_error(name: str, reference: pa.Array, candidate: pa.Array, gate: Gate, population: int) -> list[Check]:
    """The error by the spread of full precision's values: a share of the value itself means nothing near zero, or far from it."""
    if _kind(reference.type) == "vector":
        full, other = _paired(reference, candidate)
        values, error = (
            np.concatenate(full),
            np.array([float(np.abs(a - b).mean()) for a, b in zip(full, other, strict=True)]),
        )
    else:
        values = _numbers(reference)
        error = np.abs(values - _numbers(candidate))
    spread = float(values.std()) or float(np.abs(values).mean()) or 1.0
    most = _RELATIVE_ERROR if gate.min is None else 1 - gate.min
    low = intervals.low_percentile(-error / spread, _LOW, population)
    return [
        Check(name, "mean relative error", *intervals.mean(error / spread, population), round(most, 12), at_most=True),
        Check(
            name,
            "99th percentile of the relative error",
            -low.value,
            -low.high,
            -low.low,
            round(most * _HIGH_RELATIVE_ERROR / _RELATIVE_ERROR, 12),
            at_most=True,
        ),
    ]


def _against_truth(
    metrics: Mapping[str, str],
    reference: Mapping[str, pa.Array],
    candidate: Mapping[str, pa.Array],
    labels: pa.Array,
    population: int,
) -> Check:
    """By how much the candidate is further from the truth than full precision."""
    known = labels.is_valid()
    rows, truth = known.true_count, labels.filter(known)
    if rows == 0:
        raise GateError("gate.label: no compared row has a label: name another column, or remove it")
    name = next((n for n, metric in metrics.items() if metric == "agreement"), None)
    if name is not None:
        full, other = (_right(outputs[name].filter(known), truth) for outputs in (reference, candidate))
        if not full.any():
            raise GateError(
                f"gate.label: full precision's {name} ({reference[name].type}) is never what the label says ({labels.type}): "
                "name a column with values as the model gives them"
            )
        return Check(name, "drop of the accuracy", *intervals.drop(full, other, population), _DROP, at_most=True)
    name = next(
        (n for n, metric in metrics.items() if metric == "relative_error" and _kind(reference[n].type) == "number"),
        None,
    )
    if name is None or not (pt.is_floating(labels.type) or pt.is_integer(labels.type)):
        raise GateError(
            "gate.label: goes with an output of labels (gate.metric: agreement), or numbers and a numeric column: remove it"
        )
    far, near = (np.abs(_numbers(outputs[name].filter(known)) - _numbers(truth)) for outputs in (candidate, reference))
    scale = float(near.mean())
    more = (far - near) / scale if scale else far - near
    return Check(name, "growth of the mean absolute error", *intervals.mean(more, population), _DROP, at_most=True)


def _right(outputs: pa.Array, truth: pa.Array) -> NDArray[np.bool_]:
    values = (
        [_best(row) for row in _rows(outputs) if row is not None]
        if _kind(outputs.type) == "vector"
        else outputs.to_pylist()
    )
    return np.array([str(a) == str(b) for a, b in zip(values, truth.to_pylist(), strict=True)], bool)
