"""The prediction cache on its own: what is found again, what damage costs, and what is removed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.errors import StorageError
from batchinfer.pipeline.prediction_cache import PredictionCache
from batchinfer.storage.local import LocalStore

SCHEMA = pa.schema([("_truncated", pa.bool_()), ("y", pa.float64())])


def key(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


def keys(numbers: Sequence[int]) -> list[bytes]:
    return [key(n) for n in numbers]


def answers(numbers: Sequence[int]) -> pa.Table:
    return pa.table({"_truncated": [n % 2 == 0 for n in numbers], "y": [n / 2 for n in numbers]}, schema=SCHEMA)


def cache(folder: Path, model: str = "m", max_bytes: int = 1 << 30, schema: pa.Schema = SCHEMA) -> PredictionCache:
    return PredictionCache(LocalStore(str(folder)), model, schema, max_bytes)


def added(folder: Path, numbers: Sequence[int], **more: int) -> PredictionCache:
    made = cache(folder, **more)
    made.add(keys(numbers), answers(numbers))
    made.close()
    return made


def found(which: PredictionCache, numbers: Sequence[int]) -> dict[int, float]:
    """What it says of these numbers; every answer is right."""
    at, table = which.find(keys(numbers))
    if table is None:
        return {}
    assert table["_truncated"].to_pylist() == [numbers[n] % 2 == 0 for n in at]
    return dict(zip([numbers[n] for n in at], table["y"].to_pylist(), strict=True))


def right(numbers: Sequence[int]) -> dict[int, float]:
    return {n: n / 2 for n in numbers}


def test_what_was_added_is_found_by_another_run_and_nothing_else(tmp_path: Path) -> None:
    for start in range(0, 1000, 50):
        added(tmp_path, range(start, start + 50))
    wanted = [int(n) for n in np.random.default_rng(0).permutation(2000)]
    assert found(cache(tmp_path), wanted) == right(range(1000))
    assert found(cache(tmp_path, model="other"), wanted) == {}


def test_what_a_run_adds_is_found_by_itself(tmp_path: Path) -> None:
    mine = cache(tmp_path)
    for start in range(0, 100, 5):
        segment = mine.add(keys(range(start, start + 5)), answers(range(start, start + 5)))
        assert segment is not None
        mine.include(segment)
    assert found(mine, range(200)) == right(range(100))


def test_two_runs_may_add_side_by_side(tmp_path: Path) -> None:
    one, other = cache(tmp_path), cache(tmp_path)
    one.add(keys(range(10)), answers(range(10)))
    other.add(keys(range(5, 15)), answers(range(5, 15)))
    assert found(cache(tmp_path), range(20)) == right(range(15))


@pytest.mark.parametrize("ending", [".arrow", ".keys"])
@pytest.mark.parametrize("how", ["cut", "empty", "changed", "gone", "another"])
def test_a_damaged_file_is_a_miss_and_the_others_hold(tmp_path: Path, ending: str, how: str) -> None:
    added(tmp_path, range(10))
    before = set((tmp_path / "m").glob(f"*{ending}"))
    added(tmp_path, range(10, 30))
    (new,) = set((tmp_path / "m").glob(f"*{ending}")) - before
    data = new.read_bytes()
    damaged = {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "changed": data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
        "another": before.pop().read_bytes(),
    }
    new.unlink() if how == "gone" else new.write_bytes(damaged[how])
    assert found(cache(tmp_path), range(40)) == right(range(10))


def test_every_byte_of_a_file_counts(tmp_path: Path) -> None:
    added(tmp_path, range(4))
    for path in [*(tmp_path / "m").glob("*.arrow"), *(tmp_path / "m").glob("*.keys")]:
        data = path.read_bytes()
        for at in range(0, len(data), 7):
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
            assert found(cache(tmp_path), range(8)) == {}
        path.write_bytes(data)
    assert found(cache(tmp_path), range(8)) == right(range(4))


def test_answers_of_other_columns_are_passed_over(tmp_path: Path) -> None:
    added(tmp_path, range(4))
    other = pa.schema([("_truncated", pa.bool_()), ("y", pa.float32())])
    assert found(cache(tmp_path, schema=other), range(4)) == {}


def test_what_was_used_least_recently_is_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    clock = iter(range(0, 100_000_000, 5000))
    monkeypatch.setattr("batchinfer.pipeline.prediction_cache.time.time", lambda: now + next(clock))
    added(tmp_path, range(100))
    one = sum(p.stat().st_size for p in (tmp_path / "m").iterdir())
    added(tmp_path, range(100, 200))
    used = cache(tmp_path)
    assert found(used, range(5)) == right(range(5))
    used.close()
    added(tmp_path, range(200, 300), max_bytes=int(2.5 * one))
    assert found(cache(tmp_path), range(300)) == right([*range(100), *range(200, 300)])
    assert sum(p.stat().st_size for p in (tmp_path / "m").iterdir()) <= 2.5 * one
    added(tmp_path, range(300, 400), max_bytes=one // 2)
    assert found(cache(tmp_path), range(400)) == right([*range(100), *range(200, 300)])  # it alone is too large


def test_the_bound_is_of_all_models(tmp_path: Path) -> None:
    added(tmp_path, range(100), model="a")
    one = sum(p.stat().st_size for p in (tmp_path / "a").iterdir())
    added(tmp_path, range(100), model="b", max_bytes=int(1.5 * one))
    assert found(cache(tmp_path, model="a"), range(100)) == {}
    assert found(cache(tmp_path, model="b"), range(100)) == right(range(100))


def test_what_another_run_removes_is_a_miss(tmp_path: Path) -> None:
    added(tmp_path, range(10))
    mine = cache(tmp_path)
    assert found(mine, [99]) == {}
    for path in (tmp_path / "m").iterdir():
        path.unlink()
    assert found(mine, range(10)) == {}


def test_a_store_that_fails_is_left_alone_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: LocalStore, path: str, data: bytes) -> None:
        raise StorageError("disk full")

    added(tmp_path, range(10))
    mine = cache(tmp_path)
    monkeypatch.setattr(LocalStore, "put", full)
    assert mine.add(keys(range(10, 20)), answers(range(10, 20))) is None
    assert mine.add(keys(range(20, 30)), answers(range(20, 30))) is None
    assert found(mine, range(30)) == right(range(10))
    mine.close()
    assert [r.message for r in caplog.records if "disk full" in r.message] == [
        f"the prediction cache at {tmp_path} is left alone from here on: disk full"
    ]


def test_answers_without_keys_are_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run leaves them that is killed between the two."""
    put = LocalStore.put
    monkeypatch.setattr(LocalStore, "put", lambda s, path, data: path.endswith(".arrow") and put(s, path, data))
    added(tmp_path, range(10))
    assert list((tmp_path / "m").glob("*.arrow"))
    monkeypatch.undo()
    assert found(cache(tmp_path), range(10)) == {}
    added(tmp_path, range(10))
    assert found(cache(tmp_path), range(10)) == right(range(10))
