"""How the values of one column are distributed: a few figures by the kind of value, and nothing of texts that stand for one row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from hashlib import shake_256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from batchinfer.report.column_profile import ColumnProfile, Numbers
from batchinfer.report.histogram import histogram

QUANTILES = {"p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
MOST_LABELS = 64
"""Labels that are kept of a column, the most frequent ones."""
LONGEST_LABEL = 64
"""Characters: what is longer is a text, whose content is nobody's business here."""
MOST_COMPONENTS = 1024
DIRECTIONS = 8
_DEEPEST = 4


def profiled(name: str, values: pa.Array, depth: int = 0) -> Iterator[ColumnProfile]:
    """The profile of a column, followed by those of its fields or items where it is nested."""
    values = plain(values)
    kind, rows, nulls = values.type, len(values), values.null_count
    known = values.drop_null()
    told: dict[str, Any] = {"name": name, "type": str(kind), "rows": rows, "nulls": nulls}
    if pt.is_struct(kind):
        yield ColumnProfile(kind="struct", **told)
        for n in range(kind.num_fields if depth < _DEEPEST else 0):
            yield from profiled(f"{name}.{kind.field(n).name}", pc.struct_field(known, n), depth + 1)
    elif _is_list(kind):
        vectors = _vectors(known)
        if vectors is not None:
            yield _of_vectors(vectors, told)
            return
        yield ColumnProfile(kind="list", numbers=numbers(_floats(pc.list_value_length(known)), "items"), **told)
        if depth < _DEEPEST:
            yield from profiled(f"{name}[]", known.flatten(), depth + 1)
    elif pt.is_boolean(kind):
        yield ColumnProfile(kind="label", **_labels(known), **told)
    elif pt.is_string(kind) or pt.is_large_string(kind):
        labels = _labels(known)
        lengths = numbers(_floats(pc.utf8_length(known)), "characters")
        if 2 * labels["unlabelled"] > len(known):
            yield ColumnProfile(kind="text", numbers=lengths, **told)
        else:
            yield ColumnProfile(kind="label", numbers=lengths, **labels, **told)
    elif pt.is_binary(kind) or pt.is_large_binary(kind):
        yield ColumnProfile(kind="other", numbers=numbers(_floats(pc.binary_length(known)), "bytes"), **told)
    elif (floats := _as_floats(known)) is not None:
        finite = floats[np.isfinite(floats)]
        labels = _labels(known) if pt.is_integer(kind) else {}
        told |= labels if labels and 20 * labels["unlabelled"] <= len(known) else {}
        told |= {"nan": int(np.isnan(floats).sum()), "infinite": int(np.isinf(floats).sum())}
        yield ColumnProfile(kind="number", numbers=numbers(finite, "value"), **told)
    else:
        yield ColumnProfile(kind="other", **told)


def numbers(values: NDArray[np.float64], of: str) -> Numbers | None:
    """Figures of finite numbers, float64 of shape (n,); None where there are none."""
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    scale = max(abs(low), abs(high)) or 1.0  # of finite numbers neither the sum nor the squares need be finite
    scaled = values / scale
    quantiles = np.quantile(values, list(QUANTILES.values()), method="lower")
    return Numbers(
        of,
        _short(float(scaled.mean()) * scale),
        _short(float(scaled.std()) * scale),
        low,
        high,
        {name: float(q) for name, q in zip(QUANTILES, quantiles, strict=True)},
        histogram(values),
    )


def directions(dimension: int) -> NDArray[np.float32]:
    """Fixed vectors of random signs, float32 of shape (`DIRECTIONS`, dimension): the same on every machine and at every time.

    Comparing distributions by their projections on random directions is the idea of sliced distances: Rabin, Peyré, Delon, Bernot,
    "Wasserstein barycenter and its application to texture mixing", 2011. Signs in place of normal vectors: Achlioptas, "Database-friendly
    random projections", 2003.
    """
    count = DIRECTIONS * dimension
    stream = shake_256(f"batchinfer directions {dimension}".encode()).digest(-(-count // 8))
    signs = np.unpackbits(np.frombuffer(stream, np.uint8))[:count].astype(np.float32) * 2 - 1
    return signs.reshape(DIRECTIONS, dimension) / np.float32(math.sqrt(dimension))


def _of_vectors(vectors: NDArray[np.float32], told: Mapping[str, Any]) -> ColumnProfile:
    good = vectors[np.isfinite(vectors).all(axis=1)]
    norms = np.sqrt(np.einsum("ij,ij->i", good, good, dtype=np.float64))
    projected = (good @ directions(vectors.shape[1]).T).astype(np.float64)
    means = good[:, :MOST_COMPONENTS].mean(axis=0, dtype=np.float64) if len(good) else ()
    return ColumnProfile(
        kind="vector",
        nan=len(vectors) - len(good),
        numbers=numbers(norms[np.isfinite(norms)], "norm"),
        dimension=vectors.shape[1],
        means=tuple(_short(float(m)) for m in means),
        directions=tuple(histogram(p[np.isfinite(p)]) for p in projected.T),
        **told,
    )


def _labels(known: pa.Array) -> dict[str, Any]:
    """Labels that stand in more than one row, the most frequent first, and how many rows have others."""
    counted = pc.value_counts(known)
    names, counts = counted.field(0), counted.field(1)
    pairs = [
        (text, count)
        for n, count in enumerate(counts.to_pylist())
        if count > 1 and len(text := _text(names[n].as_py())) <= LONGEST_LABEL
    ]
    kept = dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:MOST_LABELS])
    return {"labels": kept, "unlabelled": len(known) - sum(kept.values())}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _vectors(known: pa.Array) -> NDArray[np.float32] | None:
    """Lists of numbers of one length as float32 of shape (n, dimension), NaN where a number is null; None for other lists."""
    lengths = pc.unique(pc.list_value_length(known))
    inner = known.type.value_type
    if len(lengths) != 1 or lengths[0].as_py() < 2 or not (pt.is_floating(inner) or pt.is_integer(inner)):
        return None
    values = known.flatten().cast(pa.float32(), safe=False)
    floats = np.asarray(pc.fill_null(values, math.nan).to_numpy(zero_copy_only=False), np.float32)
    return floats.reshape(len(known), lengths[0].as_py())


def _as_floats(known: pa.Array) -> NDArray[np.float64] | None:
    """Numbers, and times as seconds; None for values that are neither."""
    kind = known.type
    if pt.is_decimal(kind) or pt.is_floating(kind) or pt.is_integer(kind):
        return _floats(known)
    if pt.is_timestamp(kind) or pt.is_duration(kind) or pt.is_time(kind):
        units = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
        return _floats(known.cast(pa.int32() if pt.is_time32(kind) else pa.int64())) / units[kind.unit]
    if pt.is_date(kind):
        return _floats(known.cast(pa.date32()).cast(pa.int32())) * 86_400
    return None


def _floats(values: pa.Array) -> NDArray[np.float64]:
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def plain(values: pa.Array) -> pa.Array:
    """Values without dictionary, extension type or view."""
    if isinstance(values, pa.ExtensionArray):
        return plain(values.storage)
    kind = values.type
    if pt.is_dictionary(kind):
        return plain(values.dictionary_decode())
    if pt.is_map(kind):
        return values.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    if pt.is_string_view(kind):
        return values.cast(pa.large_string())
    return values.cast(pa.large_binary()) if pt.is_binary_view(kind) or pt.is_fixed_size_binary(kind) else values


def _short(value: float) -> float:
    """Seven digits are enough of a mean."""
    return float(f"{value:.7g}")
