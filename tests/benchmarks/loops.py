"""The loops by hand: the limit that everything else is compared with."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.models import FEATURES, WRITER, Embedder, Marks, Score, Tokeniser, as_column


def bare_text(
    files: list[str],
    out: Path,
    marks: Marks,
    precision: str = "fp32",
    threads: str = "2",
    tokens: str = "2048",
    **_: str,
) -> None:
    """All texts in memory, tokenised, sorted, batched under a token budget, embedded, written as one file."""
    tokenise, embed = Tokeniser(int(threads)), Embedder(precision, int(threads), int(tokens))
    embed(tokenise(["warm up"] * 4))
    marks.mark("ready")
    table = pq.read_table(files, columns=["id", "text"])
    vectors = embed(tokenise(table["text"].to_pylist()), lambda: marks.mark("first"))
    pq.write_table(pa.table({"id": table["id"], "embedding": as_column(vectors)}), out / "part-0.parquet", **WRITER)


def loop_table(files: list[str], out: Path, marks: Marks, threads: str = "2", **_: str) -> None:
    """Read a file, predict it, write it, one after the other."""
    score = Score(int(threads))
    marks.mark("ready")
    for number, path in enumerate(files):
        table = pq.read_table(path)
        scores = score([table[name].to_numpy() for name in FEATURES])
        marks.mark("first")
        pq.write_table(pa.table({"id": table["id"], "score": scores}), out / f"part-{number}.parquet", **WRITER)
