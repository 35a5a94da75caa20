"""`compare`: two outputs of the same input, such as of a model and its successor, or of two precisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batchinfer.api.run import Run, open_run
from batchinfer.report.compare import Asked, compare_outputs
from batchinfer.report.comparison import Bounds, Comparison
from batchinfer.storage.store import StorageOptions


def compare(
    first: Run | str | Path,
    second: Run | str | Path,
    *,
    key: str | None = None,
    columns: Sequence[str] = (),
    top: int = 10,
    tolerance: float = 0.01,
    show: bool = False,
    min_agreement: float | None = None,
    max_drift: float | None = None,
    storage: StorageOptions | None = None,
) -> Comparison:
    """How two outputs of the same input agree, row by row and as distributions; nothing is written.

    Args:
        first: the reference: a run, or the path or URL of its output.
        second: what is compared with it.
        key: a column that both carry, by which rows are found; by default their place in the input, or, where the inputs differ, the key
            that both jobs name.
        columns: those that are compared; by default what the steps of both computed.
        top: how many of the rows that differ most are named.
        tolerance: by which share of their spread numbers may differ and agree still, and how far from 1 the cosine of vectors may be.
        show: give both predictions of these rows, too.
        min_agreement: share of the rows that must agree in each column.
        max_drift: total variation that no column may exceed.
        storage: fsspec options by URL prefix, for outputs that are given by URL.

    Returns:
        The comparison; its `exit_code` is 3 where something lies beyond `min_agreement` or `max_drift`, else 0.

    Raises:
        RefusedError: there is no way to tell which rows are the same, or a column isn't there.
        OutputError: no job wrote there, or a part or record is gone or damaged.
        StorageError, AccessError: a store can't be read.

    """
    asked = Asked(key, tuple(columns), top, tolerance, show, Bounds(min_agreement, max_drift))
    one, two = (of if isinstance(of, Run) else open_run(of, storage) for of in (first, second))
    return compare_outputs(one.standing(), two.standing(), asked)
