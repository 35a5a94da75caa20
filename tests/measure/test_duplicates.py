"""Whether rows of equal content are predicted once: by how many there are, and by what the model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import Job, Run
from batchinfer.measure.duplicates import Duplicates, duplicates
from tests.engines.models import tiny

WORDS = ["the", "cat", "sat", "on", "a", "mat", "in", "berlin", "with", "anna"]
"""That the tiny model's tokenizer knows."""


def test_rows_whose_like_came_before_are_counted_among_the_first() -> None:
    found = duplicates(pa.table({"a": ["x", "y", "x", None, None, "x"], "b": [1, 1, 1, 1, 1, 2]}))
    assert (found.rows, found.repeated) == (6, 2)
    many = duplicates(pa.table({"a": [0] * 100_000}))
    assert (many.rows, many.repeated) == (4096, 4095)


@pytest.mark.parametrize(
    ("repeated", "row_seconds", "key_seconds", "pays"),
    [
        (40, 1e-3, 1e-6, True),
        (40, 1e-5, 1e-9, False),  # a fast model
        (9, 1e-3, 1e-6, False),  # too few
        (40, 1e-3, 1e-5, True),
        (40, 1e-3, 1.1e-5, False),  # telling rows apart is dear
        (0, 1.0, 0.0, False),
    ],
)
def test_it_pays_where_enough_is_saved(repeated: int, row_seconds: float, key_seconds: float, pays: bool) -> None:
    assert Duplicates(1000, repeated, key_seconds).pays(row_seconds) is pays


def ran(folder: Path, texts: list[str], **cache: Any) -> Run:
    if not (folder / "model").exists():
        (folder / "model").mkdir()
        tiny(folder / "model", "BertModel", ["a"])
    pq.write_table(pa.table({"n": range(len(texts)), "text": texts}), folder / "in.parquet")
    return Job(
        version=1,
        name="repeated",
        input={"path": str(folder / "in.parquet")},
        model={
            "engine": "transformers",
            "uri": str(folder / "model"),
            "task": "embedding",
            "inputs": {"text": "text"},
            "outputs": {"embedding": "e"},
            "precision": "fp32",
        },
        cache=cache,
        resources={"executor": "inline"},
        output={"path": str(folder / "out"), "mode": "overwrite"},
    ).run()


def seen(run: Run) -> tuple[bool, int, int]:
    step = run.record["settings"]["steps"][0]
    usage = run.record["usage"]["steps"]["model"]
    return step["deduplicate"], usage["rows"], usage["reused"]


def test_a_job_finds_out_by_itself_and_leaves_it_where_nothing_repeats(tmp_path: Path) -> None:
    distinct = [f"{WORDS[n % 10]} {WORDS[n // 10 % 10]} {WORDS[n // 100]}" for n in range(400)]
    run = ran(tmp_path, distinct)
    assert seen(run) == (False, 400, 0)
    assert run.record["settings"]["steps"][0]["measured"]["duplicates"]["repeated"] == 0
    repeated = [text for text in distinct[:200] for _ in range(2)]
    run = ran(tmp_path, repeated)
    assert seen(run) == (True, 200, 200)
    assert run.results().collect()["text"].to_list() == repeated
    assert seen(ran(tmp_path, repeated, deduplicate=False)) == (False, 400, 0)
