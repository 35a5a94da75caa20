"""Texts and images that were made ready once: for another job on the same machine, and for another step of the same job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import current_thread
from typing import Any

import polars as pl
import pytest

from batchinfer import Job, Run
from batchinfer.engines import images, readers
from batchinfer.storage import remote
from batchinfer.storage.store import open_store
from tests.engines.models import WORDS, tiny
from tests.engines.pictures import MODULE, encoded, picture

ROWS = 700


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classifiers, in folders `0` and `1`, whose tokenizers are alike."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(2):
        tiny(folder / str(seed), "BertForSequenceClassification", ["no", "yes"], seed)
    return folder


class Counts:
    """Bytes of Parquet files that were fetched, texts that were tokenised, images that were decoded."""

    def __init__(self) -> None:
        self.fetched = self.tokenised = self.decoded = 0
        self.of_windows = 0
        """Of the texts, those that weren't for a measurement."""

    def taken(self) -> tuple[int, int, int]:
        """Those since this was asked last."""
        counts = self.fetched, self.tokenised, self.decoded
        self.fetched = self.tokenised = self.decoded = 0
        return counts


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    counted = Counts()

    def counting(function: Callable[..., Any], name: str, size: Callable[..., int]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keys: Any) -> Any:
            result = function(*args, **keys)
            setattr(counted, name, getattr(counted, name) + size(result, *args))
            return result

        return wrapped

    read = counting(
        remote.FsspecStore.read, "fetched", lambda data, _, path, *__: len(data) * path.endswith(".parquet")
    )
    monkeypatch.setattr(remote.FsspecStore, "read", read)
    tokenised = counting(readers.tokenised, "tokenised", lambda table, *_: len(table))
    in_windows = counting(tokenised, "of_windows", lambda table, *_: len(table) * ("prepare" in current_thread().name))
    monkeypatch.setattr(readers, "tokenised", in_windows)
    monkeypatch.setattr(images, "decode", counting(images.decode, "decoded", lambda *_: 1))
    return counted


def put(tmp_path: Path, frame: pl.DataFrame, name: str = "a") -> str:
    """A file in a store that isn't this machine's; the store's address."""
    url = f"memory://prepared-{tmp_path.name}"
    frame.write_parquet(tmp_path / "in.parquet")
    open_store(url).put(f"{name}.parquet", (tmp_path / "in.parquet").read_bytes())
    return url


def texts(start: int = 0, rows: int = ROWS) -> pl.DataFrame:
    numbers = range(start, start + rows)
    return pl.DataFrame(
        {"id": numbers, "text": [f"{WORDS[n % 17]} {n} {WORDS[n % 13]}" * (1 + n % 7) for n in numbers]}
    )


def classifier(model: Path, name: str = "model", **options: Any) -> dict[str, Any]:
    return {
        "name": name,
        "engine": "transformers",
        "uri": str(model),
        "task": "text-classification",
        "precision": "fp32",
        "inputs": {"text": "text"},
        "outputs": {"label": f"{name}_label", "score": f"{name}_score"},
        "options": options,
    }


def ran(url: str, folder: Path, *steps: dict[str, Any], data: str | None = "1GB", **sections: Any) -> Run:
    fields: dict[str, Any] = {
        "version": 1,
        "name": "prepared",
        "input": {"path": f"{url}/", "key": "id"},
        "steps": list(steps),
        "batching": {"rows": 16, "tokens": 1000, "window": 100, "shard": 300},
        "resources": {"executor": "inline"},
        "cache": {"data": data, "deduplicate": False},
        "output": {"path": str(folder), "carry": "key"},
    }
    run = Job(**{**fields, **sections}).run()
    assert run.exit_code == 0
    return run


def test_another_model_with_the_same_preparation_fetches_and_tokenises_nothing(
    tmp_path: Path, models: Path, counts: Counts
) -> None:
    url = put(tmp_path, texts())
    ran(url, tmp_path / "a", classifier(models / "0"))
    fetched, tokenised, _ = counts.taken()
    assert fetched > 0
    assert tokenised == ROWS + 1  # that of the sample which has no window of its own
    second = ran(url, tmp_path / "b", classifier(models / "1"))
    assert counts.taken() == (0, 0, 0)
    plain = ran(url, tmp_path / "c", classifier(models / "1"), data=None)
    assert second.results().collect().equals(plain.results().collect())
    again, whole, _ = counts.taken()
    assert again > fetched
    assert whole > ROWS


def test_other_texts_and_another_way_to_tokenise_are_prepared(tmp_path: Path, models: Path, counts: Counts) -> None:
    url = put(tmp_path, texts())
    ran(url, tmp_path / "a", classifier(models / "0"))
    _, whole, _ = counts.taken()
    ran(url, tmp_path / "b", classifier(models / "0", max_length=7))
    assert counts.taken() == (0, whole, 0)
    put(tmp_path, texts(5000, 100), "b")
    counts.of_windows = 0
    ran(url, tmp_path / "c", classifier(models / "0"))
    assert counts.of_windows == 100
    assert counts.fetched > 0


@pytest.mark.parametrize("length", [None, 7])
def test_members_of_an_ensemble_that_prepare_alike_do_it_once(
    tmp_path: Path, models: Path, counts: Counts, length: int | None
) -> None:
    url = put(tmp_path, texts())
    options = {} if length is None else {"max_length": length}
    both = ran(
        url, tmp_path / "b", classifier(models / "0", "one"), classifier(models / "1", "other", **options), data=None
    )
    assert counts.of_windows == (ROWS if length is None else 2 * ROWS)
    alone = ran(url, tmp_path / "c", classifier(models / "1", "other", **options), data=None)
    other = both.results().select("id", "other_label", "other_score").collect()
    assert other.equals(alone.results().collect())


def test_another_model_on_the_same_images_decodes_nothing(tmp_path: Path, counts: Counts) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "nets.py").write_text(MODULE.replace("Whole", "Other"))
    photos = [encoded(picture(30 + seed % 3, 30, seed)) for seed in range(40)]
    url = put(tmp_path, pl.DataFrame({"id": range(40), "photo": photos}))

    def means(name: str, size: int = 12) -> dict[str, Any]:
        options = {"images": {"size": [size, 16]}}
        given = {"engine": "torch", "uri": f"nets:{name}", "inputs": {"pixels": "photo"}, "options": options}
        return {**given, "precision": "fp32", "outputs": {"means": "means"}}

    def job(name: str, output: str, **keys: Any) -> pl.DataFrame:
        code = [str(tmp_path / "code")]
        run = ran(url, tmp_path / output, means(name, **keys), code=code)
        return run.results().collect()

    first = job("Plain", "a")
    fetched, _, decoded = counts.taken()
    assert fetched > 0
    assert decoded >= 40
    assert not job("Other", "b").equals(first)
    assert counts.taken() == (0, 0, 0)
    assert not job("Plain", "c", size=11).equals(first)
    assert counts.taken()[0] == 0


def test_without_room_for_it_a_job_prepares_all_the_same(tmp_path: Path, models: Path, counts: Counts) -> None:
    """A folder that can't be used costs a warning."""
    url = put(tmp_path, texts())
    ran(url, tmp_path / "a", classifier(models / "0"), data="100B")
    once = counts.taken()
    ran(url, tmp_path / "b", classifier(models / "1"), data="100B")
    assert counts.taken() == once
