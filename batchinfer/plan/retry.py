"""Dead rows cut into the shards of a retry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa

from batchinfer.data import ordinals
from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.errors import InputError
from batchinfer.plan.plan import Plan
from batchinfer.plan.shards import Shard


def retry_shards(letters: pa.Table, plan: Plan, shards: Mapping[int, Shard]) -> tuple[Shard, ...]:
    """Shards of the rows of these dead letters, in input order, of a job that is extended each of one file; numbered on from the highest
    of `shards`.

    Args:
        letters: dead letters with each row once, ascending.
        plan: of the input as it is now, from which the rows are read.
        shards: all shards of the job by number, of every generation.

    Raises:
        InputError: a file that holds dead rows is no longer among the input, or has fewer rows than it had.

    """
    files = {f.path: f for f in plan.files}
    size = shard_rows(plan)
    # A part is replaced as a whole where one of its files is rewritten.
    apart = plan.spec.run.inputs_changed == "extend"
    groups = groupby(letters["source_file"].to_pylist(), key=lambda path: path if apart else "")
    pieces: list[pa.Table] = []
    for count in [sum(1 for _ in group) for _, group in groups]:
        begin = sum(map(len, pieces))
        pieces += [letters.slice(begin + at, min(size, count - at)) for at in range(0, count, size)]
    return tuple(_shard(max(shards) + 1 + n, piece, files, shards) for n, piece in enumerate(pieces))


def shard_rows(plan: Plan) -> int:
    """Rows of a shard of single rows: as asked, else eight windows."""
    asked = plan.spec.batching.shard
    return 8 * plan.reading.window if asked == "auto" else asked


def _shard(number: int, letters: pa.Table, files: Mapping[str, InputFile], shards: Mapping[int, Shard]) -> Shard:
    rows = letters["row"].to_numpy()
    spans = list(_spans(letters["source_file"].to_pylist(), letters["source_row"].to_pylist(), rows.tolist()))
    ranges = tuple(RowRange(_file(path, files, start + count), start, count) for path, start, count, _ in spans)
    left_by = letters["shard"].to_numpy()
    retries = tuple(
        (int(n), ordinals.encode(np.searchsorted(shards[int(n)].job_rows(), rows[left_by == n])))
        for n in np.unique(left_by)
    )
    return Shard(number, int(rows[0]), ranges, tuple(at for *_, at in spans), retries)


def _spans(
    paths: Sequence[str], source_rows: Sequence[int], rows: Sequence[int]
) -> Iterable[tuple[str, int, int, int]]:
    """File, first row in it, number of rows, and the job's row of the first, for rows that follow each other in all three."""
    begin = 0
    for n in range(1, len(rows) + 1):
        if n < len(rows):
            step = n - begin
            if (
                paths[n] == paths[begin]
                and source_rows[n] == source_rows[begin] + step
                and rows[n] == rows[begin] + step
            ):
                continue
        yield paths[begin], source_rows[begin], n - begin, rows[begin]
        begin = n


def _file(path: str, files: Mapping[str, InputFile], rows: int) -> InputFile:
    file = files.get(path)
    if file is None:
        raise InputError(
            f"{path}: dead rows came from this file, and it is no longer among the input: bring it back (input.path)"
        )
    if file.rows < rows:
        raise InputError(
            f"{path}: row {rows - 1:,} of this file is dead, and now it has {file.rows:,} rows: a retry finds rows by file and "
            "row number, so change values in place and keep the rows as they were"
        )
    return file
