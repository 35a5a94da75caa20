"""Remote input that a machine keeps: a second job, of another model, fetches nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchinfer.storage import remote
from batchinfer.storage.store import open_store
from tests.run.workplace import Workplace


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each read of a remote input file."""
    sizes: list[int] = []
    read = remote.FsspecStore.read

    def counted(store: Any, path: str, start: int = 0, stop: int | None = None) -> bytes:
        data: bytes = read(store, path, start, stop)
        if path.endswith(".parquet"):
            sizes.append(len(data))
        return data

    monkeypatch.setattr(remote.FsspecStore, "read", counted)
    return sizes


def remote_job(place: Workplace, **cache: Any) -> dict[str, Any]:
    url = f"memory://lake-{place.folder.name}"
    store = open_store(url)
    for path in (place.folder / "input").glob("*.parquet"):
        if path.name not in {entry.path for entry in store.list()}:
            store.put(path.name, path.read_bytes())
    return {"input": {"path": f"{url}/"}, "cache": cache}


def ran(place: Workplace, output: str, **sections: Any) -> None:
    run = place.run(**sections, output={"path": str(place.folder / output)})
    assert run.exit_code == 0
    frame = run.results().collect()
    assert frame["y"].to_list() == [2.0 * n for n in frame["id"]]


def test_a_second_job_of_another_model_fetches_nothing(tmp_path: Path, fetched: list[int]) -> None:
    place = Workplace(tmp_path)
    place.write(3000)
    job = remote_job(place, data="1GB")
    ran(place, "a", **job)
    assert sum(fetched) > 0
    fetched.clear()
    ran(place, "b", **job, model={"options": {"delay": 0.001}})
    assert fetched == []
    place.write(500, name="b", start=5000)
    job = remote_job(place, data="1GB")
    ran(place, "c", **job)
    assert 0 < sum(fetched) <= 3 * (place.folder / "input" / "b.parquet").stat().st_size


def test_unasked_nothing_is_kept(tmp_path: Path, fetched: list[int]) -> None:
    place = Workplace(tmp_path)
    place.write(300)
    job = remote_job(place)
    ran(place, "a", **job)
    once = sum(fetched)
    ran(place, "b", **job)
    assert sum(fetched) == 2 * once


def test_a_file_that_was_rewritten_is_read_as_it_is(tmp_path: Path, fetched: list[int]) -> None:
    place = Workplace(tmp_path)
    place.write(300)
    job = remote_job(place, data="1GB")
    ran(place, "a", **job)
    place.write(300, start=7000)
    store = open_store(job["input"]["path"])
    store.put("a.parquet", (place.folder / "input" / "a.parquet").read_bytes())
    fetched.clear()
    ran(place, "b", **job)
    assert sum(fetched) > 0
