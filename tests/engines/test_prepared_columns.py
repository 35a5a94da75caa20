"""Columns that were made ready once: for two steps alike, and for another job on the same machine."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from batchinfer.engines import prepared_columns
from batchinfer.engines.image_files import Files
from batchinfer.engines.images import Images
from batchinfer.engines.prepared_columns import Maker, PreparedColumns
from batchinfer.storage.kept_bytes import KeptBytes
from tests.engines.pictures import encoded, picture

WORDS = pa.array([f"word {number}" for number in range(100)])


class Work:
    """What is made of columns; counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> pa.Table:
        self.calls += 1
        return pa.table({"made": [self.calls]})


def made(maker: Maker, *columns: pa.Array, work: Work) -> int:
    value: int = maker.of(columns, work)["made"][0].as_py()
    return value


def test_two_steps_that_prepare_alike_do_it_once() -> None:
    prepared, work = PreparedColumns(), Work()
    first, second = prepared.by("a", "tokens", 1), prepared.by("b", "tokens", 1)
    assert [made(maker, WORDS, work=work) for maker in (first, second, first)] == [1, 1, 1]


@pytest.mark.parametrize("steps", [["a"], ["a", "a"]])
def test_for_one_step_nothing_is_remembered(steps: list[str]) -> None:
    """A model may be loaded several times, at several precisions."""
    prepared, work = PreparedColumns(), Work()
    makers = [prepared.by(step, "tokens") for step in steps]
    assert [made(makers[0], WORDS, work=work) for _ in range(3)] == [1, 2, 3]


def test_steps_that_prepare_otherwise_share_nothing(tmp_path: Path) -> None:
    prepared, work = PreparedColumns(KeptBytes(tmp_path, 10**6)), Work()
    makers = [prepared.by(step, "tokens", length) for step, length in (("a", 1), ("b", 2))]
    assert [made(maker, WORDS, work=work) for maker in makers] == [1, 2]


@pytest.mark.parametrize(
    "columns",
    [
        [WORDS.slice(1)],
        [pa.concat_arrays([WORDS.slice(0, 99), pa.array(["another"])])],
        [WORDS, WORDS],
        [WORDS.cast(pa.binary())],
        [pa.array([*WORDS.to_pylist()[:99], None])],
    ],
)
def test_other_columns_are_others(tmp_path: Path, columns: list[pa.Array]) -> None:
    prepared, work = PreparedColumns(KeptBytes(tmp_path, 10**6)), Work()
    maker = prepared.by("a")
    assert made(maker, WORDS, work=work) == 1
    assert made(maker, *columns, work=work) == 2


def test_values_count_and_not_how_arrow_holds_them(tmp_path: Path) -> None:
    prepared, work = PreparedColumns(KeptBytes(tmp_path, 10**6)), Work()
    maker, alike = prepared.by("a"), pa.array([f"word {number}" for number in range(20, 60)])
    assert made(maker, WORDS.slice(20, 40), work=work) == 1
    assert made(maker, alike, work=work) == 1
    assert maker.of([pa.chunked_array([WORDS.slice(20, 5), alike.slice(5)])], work)["made"][0].as_py() == 1


def test_another_job_of_the_machine_finds_it(tmp_path: Path) -> None:
    work = Work()
    for step in ("a", "b"):
        assert made(PreparedColumns(KeptBytes(tmp_path, 10**6)).by(step), WORDS, work=work) == 1
    assert made(pickle.loads(pickle.dumps(PreparedColumns(KeptBytes(tmp_path, 10**6)))).by("c"), WORDS, work=work) == 1


def test_what_was_altered_on_the_disk_is_made_again(tmp_path: Path) -> None:
    work = Work()
    assert made(PreparedColumns(KeptBytes(tmp_path, 10**6)).by("a"), WORDS, work=work) == 1
    (file,) = (path for path in tmp_path.glob("*/*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-9] + b"alteration")
    assert made(PreparedColumns(KeptBytes(tmp_path, 10**6)).by("a"), WORDS, work=work) == 2


def test_the_memory_has_a_bound_and_drops_what_was_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_columns, "_MEMORY_BYTES", 3 * pa.table({"made": [1]}).nbytes)
    prepared, work = PreparedColumns(), Work()
    prepared.by("a")
    maker = prepared.by("b")
    one, two, three, four = (WORDS.slice(start, 10) for start in (0, 10, 20, 30))
    assert [made(maker, column, work=work) for column in (one, two, three, one, four)] == [1, 2, 3, 1, 4]
    assert [made(maker, column, work=work) for column in (one, three, four, two)] == [1, 3, 4, 5]


def test_what_raises_is_not_remembered(tmp_path: Path) -> None:
    prepared, work = PreparedColumns(KeptBytes(tmp_path, 10**6)), Work()
    maker = prepared.by("a")

    def fail() -> pa.Table:
        raise ValueError("a bad row")

    with pytest.raises(ValueError, match="a bad row"):
        maker.of([WORDS], fail)
    assert made(maker, WORDS, work=work) == 1


class Decoding:
    """The middle of images; counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, image: Image.Image) -> np.ndarray:
        self.count += 1
        return np.asarray(image)[:4, :4].astype(np.float32)


def images(photos: list[bytes], decoding: Decoding, folder: Path) -> Images:
    maker = PreparedColumns(KeptBytes(folder, 10**8)).by("a")
    files = Files(None, {}, "model.options.images")
    return Images(pa.array(photos), "photo", files, "RGB", decoding, 4 * 4 * 3 * 4, maker)


def test_images_are_decoded_once_whatever_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchinfer.engines.images._BLOCK_BYTES", 10 * 4 * 4 * 3 * 4)
    photos = [encoded(picture(seed=seed)) for seed in range(35)]
    plain = Images(pa.array(photos), "photo", Files(None, {}, "images"), "RGB", Decoding())[slice(0, 35)]
    first, second = Decoding(), Decoding()
    batches = [slice(0, 3), slice(3, 16), np.array([34, 2, 17]), slice(16, 35)]
    for decoding, some in ((first, batches), (second, [slice(20, 35), *reversed(batches)])):
        read = images(photos, decoding, tmp_path)
        for rows in some:
            np.testing.assert_array_equal(read[rows], plain[rows])
    assert (first.count, second.count) == (35, 0)


def test_what_is_no_image_costs_those_beside_it_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchinfer.engines.images._BLOCK_BYTES", 10 * 4 * 4 * 3 * 4)
    photos = [encoded(picture(seed=seed)) for seed in range(30)]
    photos[13] = b"no image"
    for again in (20, 0):
        decoding = Decoding()
        read = images(photos, decoding, tmp_path)
        assert read[slice(0, 10)].shape == (10, 4, 4, 3)
        assert read[slice(20, 30)].shape == (10, 4, 4, 3)
        assert decoding.count == again
        with pytest.raises(ValueError, match="photo is no image"):
            read[slice(8, 22)]
        assert read[np.array([9, 14, 12, 21])].shape == (4, 4, 4, 3)
