"""Profiles of an output's predictions: what is in them, and what must not be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.errors import OutputError, RefusedError
from batchinfer.report.profile import Profile, profile
from batchinfer.storage.store import open_store
from tests.report.parts import written
from tests.run.workplace import Workplace

RNG = np.random.default_rng(7)


def made(folder: Path, **columns: object) -> Profile:
    return profile(*written(folder, pa.table(columns)))


def test_numbers_have_figures_and_what_is_no_number_is_counted(tmp_path: Path) -> None:
    values = [*np.arange(1000.0), None, float("nan"), float("inf")]
    (column,) = made(tmp_path, score=pa.array(values, pa.float64())).columns
    assert (column.kind, column.rows, column.nulls, column.nan, column.infinite) == ("number", 1003, 1, 1, 1)
    assert column.numbers is not None
    assert column.numbers.mean == pytest.approx(499.5)
    assert column.numbers.std == pytest.approx(np.arange(1000.0).std(), rel=1e-6)
    assert (column.numbers.min, column.numbers.max, column.numbers.quantiles["p50"]) == (0, 999, 499)
    assert sum(column.numbers.histogram.counts) == 1000
    assert column.labels is None


def test_labels_are_counted_most_frequent_first_and_rare_ones_are_not_named(tmp_path: Path) -> None:
    labels = ["cat"] * 50 + ["dog"] * 90 + ["a name that stands once"] + [None] * 3
    (column,) = made(tmp_path, label=pa.array(labels).dictionary_encode()).columns
    assert column.kind == "label"
    assert list((column.labels or {}).items()) == [("dog", 90), ("cat", 50)]
    assert (column.unlabelled, column.nulls) == (1, 3)


def test_whole_numbers_and_truth_values_with_few_values_have_labels_too(tmp_path: Path) -> None:
    made_of = made(tmp_path, digit=np.arange(500) % 10, spam=np.arange(500) % 5 == 0, id=np.arange(500))
    digit, spam, ids = made_of.columns
    assert digit.kind == "number"
    assert (digit.labels or {})["3"] == 50
    assert dict(spam.labels or {}) == {"false": 400, "true": 100}
    assert ids.labels is None


def test_texts_leave_their_lengths_and_no_word(tmp_path: Path) -> None:
    texts = [f"secret {n} of somebody{'!' * (n % 7)}" for n in range(400)] + ["the same twice"] * 2
    profiled = made(tmp_path, answer=texts)
    (column,) = profiled.columns
    assert (column.kind, column.labels) == ("text", None)
    assert column.numbers is not None
    assert column.numbers.of == "characters"
    written_out = json.dumps(profiled.to_json())
    assert "secret" not in written_out
    assert "twice" not in written_out


def test_long_texts_that_repeat_are_no_labels(tmp_path: Path) -> None:
    (column,) = made(tmp_path, answer=["somebody's long letter " * 5] * 90).columns
    assert column.kind == "text"
    assert "somebody" not in json.dumps(column.to_json())


def test_vectors_have_norms_means_and_directions_in_few_kilobytes(tmp_path: Path) -> None:
    vectors = RNG.normal(size=(3000, 384)).astype(np.float32)
    kind = pa.list_(pa.float32(), 384)
    profiled = made(tmp_path, embedding=pa.FixedSizeListArray.from_arrays(vectors.ravel(), type=kind))
    (column,) = profiled.columns
    assert (column.kind, column.dimension, len(column.means), len(column.directions)) == ("vector", 384, 384, 8)
    assert column.numbers is not None
    assert column.numbers.mean == pytest.approx(np.linalg.norm(vectors, axis=1).mean(), rel=1e-5)
    assert column.means[5] == pytest.approx(vectors[:, 5].mean(), rel=1e-4)
    assert len(json.dumps(profiled.to_json())) < 24_000


def test_structs_lists_and_other_types_are_described(tmp_path: Path) -> None:
    rows = [{"label": "ab"[n % 2], "score": n / 100} for n in range(100)]
    tags = [["x"] * (n % 3) for n in range(100)]
    profiled = made(
        tmp_path,
        answer=rows,
        tags=tags,
        blob=[b"1234"] * 100,
        day=pa.array(range(100), pa.date32()),
        nothing=pa.nulls(100),
        pairs=pa.array([[("k", 1)]] * 100, pa.map_(pa.string(), pa.int64())),
        amount=pa.array([1] * 100, pa.decimal128(9, 2)),
        at=pa.array(range(100), pa.timestamp("ms", "UTC")),
        half=np.arange(100, dtype=np.float16),
    )
    kinds = {c.name: c.kind for c in profiled.columns}
    assert kinds == {
        "answer": "struct",
        "answer.label": "label",
        "answer.score": "number",
        "tags": "list",
        "tags[]": "label",
        "blob": "other",
        "day": "number",
        "nothing": "other",
        "pairs": "list",
        "pairs[]": "struct",
        "pairs[].key": "label",
        "pairs[].value": "number",
        "amount": "number",
        "at": "number",
        "half": "number",
    }
    assert profiled.column("nothing") is not None
    assert profiled.column("nothing").nulls == 100  # type: ignore[union-attr]


def test_a_profile_is_read_back_from_json(tmp_path: Path) -> None:
    profiled = made(
        tmp_path, v=[[1.0, n] for n in range(50)], s=["a", "b"] * 25, x=[float("nan"), 2.5] * 25, t=[{"u": 1}] * 50
    )
    assert Profile.from_json(json.loads(json.dumps(profiled.to_json(), allow_nan=False))) == profiled


@pytest.mark.parametrize(
    "garbage", [{}, [], {"batchinfer_profile": 1, "rows": 1, "columns": [{}]}, {"batchinfer_profile": 2}]
)
def test_what_is_no_profile_is_refused(garbage: object) -> None:
    with pytest.raises(OutputError, match="profile"):
        Profile.from_json(garbage, "there.json")  # type: ignore[arg-type]


def test_rows_are_looked_at_all_over_a_large_output_and_the_same_each_time(tmp_path: Path) -> None:
    tables = [pa.table({"x": np.arange(n * 5000, (n + 1) * 5000)}) for n in range(20)]
    store, parts = written(tmp_path, *tables)
    profiled = profile(store, parts, most_rows=2000)
    assert profiled.rows == 100_000
    assert 1500 < profiled.looked_at <= 2000
    numbers = profiled.columns[0].numbers
    assert numbers is not None
    assert numbers.mean == pytest.approx(50_000, rel=0.05)
    assert (numbers.min, numbers.max) == (pytest.approx(0, abs=2500), pytest.approx(100_000, abs=2500))
    assert profile(store, list(reversed(parts)), most_rows=2000) == profiled


def test_a_large_row_group_is_not_read_to_its_end(tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(RNG.normal(size=64 * 30_000).astype(np.float32), 64)
    store, parts = written(tmp_path, pa.table({"v": vectors}), group=30_000)
    profiled = profile(store, parts, most_bytes=2**20)
    assert 1000 < profiled.looked_at < 8000


def test_an_output_without_rows_or_parts_has_an_empty_profile(tmp_path: Path) -> None:
    store, parts = written(tmp_path, pa.table({"x": pa.array([], pa.float32()), "s": pa.array([], pa.string())}))
    assert profile(store, []).columns == ()
    empty = profile(store, parts)
    assert (empty.rows, [(c.name, c.numbers) for c in empty.columns]) == (0, [("x", None), ("s", None)])


def test_damaged_and_missing_parts_and_columns_are_refused(tmp_path: Path) -> None:
    store, parts = written(tmp_path, pa.table({"score": np.arange(5000.0)}))
    with pytest.raises(RefusedError, match="did you mean 'score'"):
        profile(store, parts, ["scor"])
    path = tmp_path / parts[0].path
    data = bytearray(path.read_bytes())
    data[500:600] = b"\0" * 100
    path.write_bytes(data)
    with pytest.raises(OutputError, match="damaged"):
        profile(store, parts)
    path.unlink()
    with pytest.raises(OutputError, match="gone"):
        profile(store, parts)


def test_of_a_job_the_columns_that_its_steps_computed_are_profiled(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path)
    workplace.write(3000, bad={7})
    run = workplace.run(errors={"threshold": 1})
    store = open_store(run.path)
    from batchinfer.ledger import jobs, manifests

    job = jobs.current(store)
    assert job is not None
    manifest = manifests.latest(store, job.paths)
    assert manifest is not None
    profiled = profile(store, manifest.parts)
    assert [c.name for c in profiled.columns] == ["y"]
    assert (profiled.rows, profiled.looked_at) == (2999, 2999)
    assert run.profile() == profiled
    assert repr(profiled) == "Profile(2,999 of 2,999 rows: y (number))"
    assert [c.name for c in profile(store, manifest.parts, ["id", "y"]).columns] == ["id", "y"]
