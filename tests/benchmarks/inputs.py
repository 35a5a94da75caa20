"""Inputs of the benchmarks, the same at every run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.models import FEATURES, ROOT


def make_text(folder: Path, rows: int) -> None:
    """Speeches of the quickstart in random order, as often as needed, in 16 files."""
    texts = pq.read_table(ROOT / "jobs/data/speeches.parquet")["text"].to_pylist()
    rng = np.random.default_rng(7)
    order = np.concatenate([rng.permutation(len(texts)) for _ in range(-(-rows // len(texts)))])[:rows]
    folder.mkdir(parents=True, exist_ok=True)
    for number, some in enumerate(np.array_split(np.arange(rows), 16)):
        table = pa.table({"id": some, "text": [texts[order[i]] for i in some]})
        pq.write_table(table, folder / f"part-{number:03d}.parquet", row_group_size=500, compression="zstd")


def make_table(folder: Path, rows: int, group: int = 62_500) -> None:
    """An id and 32 float32 columns, 250,000 rows a file."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(-(-rows // 250_000)):
        count = min(250_000, rows - number * 250_000)
        columns = {"id": np.arange(count) + number * 250_000}
        columns |= {name: rng.standard_normal(count, dtype=np.float32) for name in FEATURES}
        pq.write_table(
            pa.table(columns),
            folder / f"part-{number:03d}.parquet",
            row_group_size=group,
            use_dictionary=False,
            compression="none",
        )


def make_network(path: Path) -> None:
    """The weights of `jobs/tabular_model.py:Scorer`."""
    from safetensors.torch import save_file

    from tests.benchmarks.models import scorer

    save_file(scorer().state_dict(), path)
