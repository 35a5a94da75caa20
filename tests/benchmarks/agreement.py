"""Whether programs computed the same: a comparison of the time of different things says nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.programs import parts

LEAST_COSINE = 0.99
"""Between rows of bf16 and fp32 there are 0.999 and more."""
MOST_DIFFERENCE = 1e-3


def check(out: Path, reference: Path, column: str) -> dict[str, float]:
    """Compare an output with another, by id. Raises ValueError where rows lack, values differ, or the codec does.

    Gives the smallest cosine of two rows of `embedding`, or the largest difference of a `score`.
    """
    if (own := codecs(out)) != (other := codecs(reference)):
        raise ValueError(f"{out} is written with {', '.join(own)}, and {reference} with {', '.join(other)}")
    mine, theirs = _read(out, column), _read(reference, column)
    if not np.array_equal(mine[0], theirs[0]):
        raise ValueError(f"{out} has other rows than {reference}: {len(mine[0]):,} and {len(theirs[0]):,}")
    if column == "score":
        difference = float(np.abs(mine[1] - theirs[1]).max())
        if not difference <= MOST_DIFFERENCE:
            raise ValueError(f"{out}: a score differs by {difference:g} from {reference}")
        return {"difference_max": difference}
    norms = np.linalg.norm(mine[1], axis=1) * np.linalg.norm(theirs[1], axis=1)
    cosine = float(((mine[1] * theirs[1]).sum(1) / norms).min())
    if not cosine >= LEAST_COSINE:
        raise ValueError(f"{out}: a row's cosine with that of {reference} is {cosine:.4f}")
    return {"cosine_min": round(cosine, 6)}


def codecs(out: Path) -> list[str]:
    """The codecs of all columns of an output."""
    footers = [pq.read_metadata(path) for path in parts(out)]
    groups = [footer.row_group(n) for footer in footers for n in range(footer.num_row_groups)]
    return sorted({group.column(n).compression for group in groups for n in range(group.num_columns)})


def _read(out: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids, ascending, and values, shape (rows,) or (rows, width)."""
    table = pa.concat_tables([pq.read_table(p).select(["id", column]) for p in sorted(parts(out))])
    ids, values = table["id"].to_numpy(), table[column].combine_chunks()
    order = np.argsort(ids, kind="stable")
    flat = values.to_numpy() if column == "score" else values.flatten().to_numpy().reshape(len(ids), -1)
    return ids[order], flat[order]
