"""Images that a column of paths names."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from batchinfer.engines.image_files import Files
from batchinfer.engines.registry import open_engine
from batchinfer.errors import ModelError, RefusedError
from batchinfer.job.steps import Step
from batchinfer.storage.store import StorageOptions
from batchinfer.testing.engines import EngineContract
from tests.engines.pictures import MODULE, answers, encoded, means, picture, pictures, step, table, whole

SIZE = {"size": [12, 16]}


def paths(values: list[str | None]) -> pa.Table:
    return pa.table({"photo": pa.array(values, pa.string())})


def files(root: str | None, storage: StorageOptions | None = None) -> Files:
    return Files(root, storage or {}, "model.options.images")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with 0.png to 6.png below `deep/`."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number, data in enumerate(pictures()):
        (folder / "deep" / f"{number}.png").write_bytes(data)
    (tmp_path / "secret.png").write_bytes(encoded(picture()))
    return folder


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL with 0.png to 6.png below it."""
    system = fsspec.filesystem("memory")
    for number, data in enumerate(pictures()):
        system.pipe_file(f"/photos/{number}.png", data)
    system.pipe_file("/other/0.png", b"")
    yield "memory://photos"
    for folder in ("/photos", "/other"):
        system.rm(folder, recursive=True)


class TestPaths(EngineContract):
    def build(self) -> Step:
        means(self.folder / "net.onnx", [3, 12, 16])
        for number, data in enumerate(pictures()):
            (self.folder / f"{number}.png").write_bytes(data)
        return step("onnx", str(self.folder / "net.onnx"), {**SIZE, "root": str(self.folder)})

    def rows(self) -> pa.Table:
        return paths([f"{n}.png" for n in range(7)])

    def change(self) -> None:
        means(self.folder / "net.onnx", [3, 12, 16], gain=2.0)


@pytest.mark.parametrize("spelled", ["deep/{}.png", "./deep/{}.png", "{root}/deep/{}.png", "file://{root}/deep/{}.png"])
@pytest.mark.parametrize("rooted", ["{root}", "{root}/", "file://{root}"])
def test_paths_are_relative_to_the_root_or_begin_with_it(
    tmp_path: Path, photos: Path, spelled: str, rooted: str
) -> None:
    engine = whole(tmp_path, {**SIZE, "root": rooted.format(root=photos)})
    got = answers(engine, paths([spelled.format(n, root=photos) for n in range(7)]))
    np.testing.assert_array_equal(got, answers(engine, table(pictures())))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_paths_may_be_strings_of_any_kind(tmp_path: Path, photos: Path, kind: pa.DataType) -> None:
    engine = whole(tmp_path, {**SIZE, "root": str(photos)})
    column = paths([f"deep/{n % 7}.png" for n in range(9)]).column("photo").cast(kind)
    assert len(answers(engine, pa.table({"photo": column}))) == 9


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_bytes_may_be_of_any_kind(tmp_path: Path, kind: pa.DataType) -> None:
    engine, rows = whole(tmp_path, SIZE), table(pictures())
    other = pa.table({"photo": rows.column("photo").cast(kind)})
    np.testing.assert_array_equal(answers(engine, other), answers(engine, rows))


def test_a_root_may_be_a_url(tmp_path: Path, memory: str) -> None:
    engine = whole(tmp_path, {**SIZE, "root": memory})
    rows = paths(["2.png", "memory://photos/5.png"])
    want = answers(engine, table([pictures()[2], pictures()[5]]))
    np.testing.assert_array_equal(answers(engine, rows), want)


def test_a_struct_without_bytes_is_read_by_its_path(tmp_path: Path, photos: Path) -> None:
    engine = whole(tmp_path, {**SIZE, "root": str(photos)})
    some = pictures()
    rows: list[dict[str, Any]] = [
        {"bytes": some[0], "path": "no such file"},
        {"bytes": None, "path": "deep/3.png"},
        {"bytes": some[1], "path": None},
    ]
    column = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    want = answers(engine, table([some[0], some[3], some[1]]))
    np.testing.assert_array_equal(answers(engine, pa.table({"photo": column})), want)
    np.testing.assert_array_equal(answers(engine, pa.table({"photo": column}).slice(1)), want[1:])


BAD = {
    "missing": ("deep/77.png", r"input pixels: there is no file deep/77.png below .*photos"),
    "a folder": ("deep", "there is no file deep below"),
    "the root": (".", "there is no file . below"),
    "below a file": ("deep/0.png/x", "there is no file"),
    "empty": ("", "'' names no file below"),
    "upwards": ("deep/../../secret.png", r"names no file below"),
    "elsewhere": ("{above}/secret.png", r"secret.png is not below .*photos"),
    "beside": ("{root}2/x.png", "is not below"),
    "another store": ("s3://bucket/a.png", "s3://bucket/a.png is not below"),
    "a NUL": ("a\0.png", "names no file below"),
    "too long": ("x" * 300, "there is no file x"),
    "far too long": ("x/" * 3000, "names no file below"),
}


@pytest.mark.parametrize(("path", "words"), BAD.values(), ids=BAD)
def test_a_path_without_an_image_costs_its_row(tmp_path: Path, photos: Path, path: str, words: str) -> None:
    engine = whole(tmp_path, {**SIZE, "root": str(photos)})
    prepared = engine.prepare(paths(["deep/0.png", path.format(root=photos, above=tmp_path), "deep/1.png"]))
    with pytest.raises(ValueError, match=words):
        prepared.batch(slice(0, 3))
    assert prepared.batch(np.array([0, 2])).rows == 2


@pytest.mark.parametrize("path", ["7.png", "memory://other/0.png", "", "x"])
def test_a_url_without_an_image_costs_its_row(memory: str, path: str) -> None:
    with pytest.raises(ValueError, match="input photo: "):
        files(memory).read(["0.png", path], "photo")


def test_without_a_root_no_file_is_read(tmp_path: Path, photos: Path) -> None:
    engine, path = whole(tmp_path, SIZE), str(photos / "deep" / "0.png")
    with pytest.raises(ModelError, match=r"model.options.images.root: is missing: the input pixels holds paths"):
        engine.prepare(paths([path]))
    column = pa.array([{"bytes": None, "path": path}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    prepared = engine.prepare(pa.table({"photo": column}))
    with pytest.raises(
        ValueError, match=r"input pixels has no bytes but a path, and model.options.images.root doesn't say"
    ):
        prepared.batch(slice(0, 1))


def test_a_root_that_can_not_be_used_is_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(MODULE)
    means(tmp_path / "net.onnx", [3, 12, 16])
    for uri, engine in (("nets:Whole", "torch"), (str(tmp_path / "net.onnx"), "onnx")):
        for root, kind, words in (
            (str(tmp_path / "none"), ModelError, "model.options.images.root: there is no folder"),
            ("ftp://host/photos", RefusedError, "the protocol 'ftp' isn't supported"),
        ):
            output = "whole" if engine == "torch" else "means"
            what = step(engine, uri, {**SIZE, "root": root}, output)
            with pytest.raises(kind, match=words):
                open_engine(what, [str(tmp_path)]).load("cpu", "fp32", 1)


def test_the_options_of_the_store_are_used(tmp_path: Path) -> None:
    """A store of a service that nobody is at: what it says shows that it was asked, with these options."""
    options = {"s3://bucket/": {"key": "k", "secret": "s", "endpoint_url": "no url at all"}}
    with pytest.raises(RefusedError, match="no url at all"):
        files("s3://bucket/photos", options).read(["a.png"], "photo")


def test_files_travel_between_processes_without_their_connection(photos: Path) -> None:
    before = files(str(photos))
    want = before.read(["deep/0.png"], "photo")
    assert pickle.loads(pickle.dumps(before)).read(["deep/0.png"], "photo") == want
