"""Columns of encoded images in the engines on columns, beside Pillow and numpy used by hand."""

from __future__ import annotations

import importlib.util
import io
import struct
import threading
import time
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from onnx import TensorProto
from PIL import Image
from safetensors.torch import save_file

from batchinfer.engines.checks import check
from batchinfer.engines.image_files import Files
from batchinfer.engines.images import Images, decode
from batchinfer.engines.registry import identify, open_engine, precisions
from batchinfer.errors import MissingExtraError, ModelError
from batchinfer.job.steps import Batching, Step
from batchinfer.measure.choose import budget_for
from batchinfer.pipeline.batching import Budget
from batchinfer.testing.engines import EngineContract
from tests.engines.pictures import MODULE, answers, encoded, means, noise, picture, pictures, step, table, whole

SIZE = {"size": [12, 16]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
NO_FILES = Files(None, {}, "model.options.images")


class TestTorch(EngineContract):
    def build(self) -> Step:
        (self.folder / "nets.py").write_text(MODULE)
        self.save(1.0)
        options = {"images": SIZE, "weights": str(self.folder / "w.safetensors")}
        return step("torch", "nets:Means", None).model_copy(update={"options": options})

    def save(self, gain: float) -> None:
        save_file({"gain": torch.full((1,), gain)}, self.folder / "w.safetensors")

    def code(self) -> list[str]:
        return [str(self.folder)]

    def rows(self) -> pa.Table:
        return table(pictures())

    def change(self) -> None:
        self.save(2.0)


class TestOnnx(EngineContract):
    engine_name = "onnx"

    def build(self) -> Step:
        means(self.folder / "net.onnx", [3, 12, 16])
        return step(self.engine_name, str(self.folder / "net.onnx"), SIZE)

    def rows(self) -> pa.Table:
        return table(pictures())

    def change(self) -> None:
        means(self.folder / "net.onnx", [3, 12, 16], gain=2.0)


class TestOpenVINO(TestOnnx):
    engine_name = "openvino"


class TestStructs(TestOnnx):
    """As Hugging Face's datasets store images, with the bytes inside."""

    def rows(self) -> pa.Table:
        rows = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(pictures())]
        return pa.table({"photo": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})


def by_hand(
    image: Image.Image, size: tuple[int, int], box: tuple[int, ...], mode: str, kind: Image.Resampling
) -> np.ndarray:
    """Height, width and channels, from 0 to 255."""
    resized = image.convert(mode).resize(size, kind)
    return np.asarray(resized.crop(box)).reshape(box[3] - box[1], box[2] - box[0], -1)


@pytest.mark.parametrize(
    ("options", "size", "box", "mode"),
    [
        ({"size": [12, 16]}, (16, 12), (0, 0, 16, 12), "RGB"),
        ({"size": [12, 16], **IMAGENET}, (16, 12), (0, 0, 16, 12), "RGB"),
        ({"size": [12, 16], "scale": 1.0, "mean": [1, 2, 3], "std": [4, 5, 6]}, (16, 12), (0, 0, 16, 12), "RGB"),
        ({"size": [12, 16], "scale": None, "std": [2, 2, 2]}, (16, 12), (0, 0, 16, 12), "RGB"),
        ({"size": [12, 16], "mode": "L", "mean": [0.5], "std": [0.25]}, (16, 12), (0, 0, 16, 12), "L"),
        (
            {"size": [12, 16], "crop": [8, 9]},
            (16, 12),
            (4, 2, 13, 10),
            "RGB",
        ),  # 3.5 and 2 from the corner: rounded to even
        # The picture has 41 x 30 pixels: 15 for 20 make 27.33 for 41, and half of 27 - 16 is 5.5, half of 20 - 16 is 2.
        ({"size": 20, "crop": 16}, (27, 20), (6, 2, 22, 18), "RGB"),
        ({"size": [12, 16], "resample": "nearest"}, (16, 12), (0, 0, 16, 12), "RGB"),
        ({"size": [12, 16], "resample": "bicubic"}, (16, 12), (0, 0, 16, 12), "RGB"),
        ({"size": [12, 16], "resample": "lanczos"}, (16, 12), (0, 0, 16, 12), "RGB"),
    ],
)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_values_are_those_of_pillow_and_numpy(
    tmp_path: Path, options: dict[str, Any], size: tuple[int, int], box: tuple[int, ...], mode: str, layout: str
) -> None:
    images = [picture(41, 30, seed) for seed in range(3)]
    kind = Image.Resampling[options.get("resample", "bilinear").upper()]
    want = np.stack([by_hand(image, size, box, mode, kind) for image in images]).astype(np.float64)
    scale = options.get("scale", 1 / 255)
    want *= 1 if scale is None else scale
    want = (want - np.array(options.get("mean", 0))) / np.array(options.get("std", 1))
    if layout == "nchw":
        want = want.transpose(0, 3, 1, 2)
    got = answers(whole(tmp_path, {**options, "layout": layout}), table([encoded(image) for image in images]))
    np.testing.assert_allclose(got, want.reshape(3, -1), rtol=1e-5, atol=1e-6)


def test_bgr_is_rgb_backwards(tmp_path: Path) -> None:
    rows, keys = table([encoded(picture())]), {"size": [12, 16], "layout": "nhwc"}
    rgb = answers(whole(tmp_path, keys), rows).reshape(12, 16, 3)
    bgr = answers(whole(tmp_path, {**keys, "mode": "BGR"}), rows).reshape(12, 16, 3)
    assert not np.array_equal(rgb, bgr)
    np.testing.assert_array_equal(bgr, rgb[:, :, ::-1])


@pytest.mark.parametrize("engine_name", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("shape", "images", "kind"),
    [
        ([3, 12, 16], {"size": [12, 16], **IMAGENET}, TensorProto.FLOAT),
        ([3, None, "wide"], {"size": [12, 16]}, TensorProto.FLOAT),
        ([12, 16, 3], {"size": [12, 16], "layout": "nhwc", "mode": "BGR", "scale": 1.0}, TensorProto.FLOAT),
        ([1, 12, 16], {"size": [12, 16], "mode": "L"}, TensorProto.FLOAT),
        ([3, 12, 16], {"size": [12, 16], "scale": None}, TensorProto.FLOAT),
        ([3, 12, 16], {"size": [12, 16], "scale": None}, TensorProto.UINT8),
        ([3, 12, 16], {"size": [12, 16]}, TensorProto.FLOAT16),
    ],
)
def test_a_graph_is_fed_what_a_torch_module_is(
    tmp_path: Path, engine_name: str, shape: list[Any], images: dict[str, Any], kind: int
) -> None:
    means(tmp_path / "net.onnx", shape, kind=kind)
    what = step(engine_name, str(tmp_path / "net.onnx"), images)
    engine = open_engine(what)
    engine.load("cpu", precisions(what, "cpu")[0], 1)
    rows = table(pictures())
    values = answers(whole(tmp_path, images), rows)
    channels = images.get("layout", "nchw") == "nchw"
    want = values.reshape(len(rows), *((-1, 12, 16) if channels else (12, 16, 3))).mean((2, 3) if channels else (1, 2))
    np.testing.assert_allclose(answers(engine, rows).reshape(want.shape), want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation: int) -> None:
    upright = picture(16, 12)
    turn = Image.Transpose
    # How a camera that was held otherwise stores what becomes this picture when it is turned as the number says.
    stored = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    image = upright if orientation == 1 else upright.transpose(stored[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode(encoded(image, exif=exif), "photo", "RGB")
    np.testing.assert_array_equal(np.asarray(got), np.asarray(upright))


def palette() -> Image.Image:
    return picture().quantize(16)


def transparent() -> Image.Image:
    image = picture()
    image.putalpha(Image.fromarray(noise(30, 40)))
    return image


GREY = noise(6, 8)


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (encoded(Image.fromarray(GREY)), np.repeat(GREY[:, :, None], 3, 2)),
        (encoded(Image.fromarray(np.stack([GREY, GREY[::-1]], 2), "LA")), np.repeat(GREY[:, :, None], 3, 2)),
        (encoded(transparent()), np.asarray(picture())),
        (encoded(palette()), np.asarray(palette().convert("RGB"))),
        (encoded(palette(), "GIF", transparency=3), np.asarray(palette().convert("RGB"))),
        (encoded(picture().convert("CMYK"), "TIFF"), np.asarray(picture().convert("CMYK").convert("RGB"))),
        (
            encoded(Image.fromarray(GREY > 127)),
            np.repeat(np.where(GREY > 127, 255, 0).astype(np.uint8)[:, :, None], 3, 2),
        ),
        # 16 bits keep their upper ones.
        (encoded(Image.fromarray(GREY.astype(np.uint16) * 256 + 77)), np.repeat(GREY[:, :, None], 3, 2)),
        (encoded(Image.fromarray(GREY.astype(np.uint16) * 256 + 77), "TIFF"), np.repeat(GREY[:, :, None], 3, 2)),
    ],
    ids=["L", "LA", "RGBA", "P", "P of a GIF", "CMYK", "1", "I;16", "I;16 of a TIFF"],
)
def test_every_mode_becomes_channels_of_8_bits(data: bytes, want: np.ndarray) -> None:
    got = decode(data, "photo", "RGB")
    assert got.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(got), want)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert decode(data, "photo", "RGB").getpixel((4, 4)) == (255, 0, 0)


def claimed(wide: int, high: int) -> bytes:
    """A PNG of a few bytes that says it is so large."""
    chunks = b""
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


JPEG = encoded(picture(200, 200), "JPEG")
FLOATS = encoded(Image.fromarray(noise(6, 8).astype(np.float32)), "TIFF")
BAD = {
    "nothing": (b"", "input pixels is no image of a format that is read"),
    "a text": (b"hello, world", "input pixels is no image of a format that is read"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image of a format that is read"),
    "cut off": (JPEG[: len(JPEG) // 2], "input pixels can't be decoded: OSError: image file is truncated"),
    "only a beginning": (JPEG[:20], "input pixels "),
    "a PNG with a wrong checksum": (encoded(picture()).replace(b"IDAT", b"IDAX"), "input pixels "),
    "a bomb": (claimed(30_000, 30_000), "DecompressionBombError"),
    "a thread": (claimed(20_000, 10), "it has 20000 x 10 pixels, and one edge may be 1000 times the other"),
    "floats": (FLOATS, "its values are of 32 bits"),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_what_is_no_image_costs_its_row_when_a_batch_takes_it(tmp_path: Path, data: bytes, words: str) -> None:
    engine = whole(tmp_path, SIZE)
    prepared = engine.prepare(table([encoded(picture()), data, encoded(picture(seed=1))]))
    with pytest.raises(ValueError, match=words):
        prepared.batch(slice(0, 3))
    assert prepared.batch(np.array([0, 2])).rows == 2


def test_an_image_that_is_just_long_is_read() -> None:
    assert decode(encoded(Image.new("RGB", (2000, 2))), "photo", "RGB").size == (2000, 2)


def test_nothing_is_decoded_before_a_batch_takes_it_and_few_images_are_whole_at_a_time() -> None:
    lock, alive, seen = threading.Lock(), 0, []

    def gone() -> None:
        nonlocal alive
        with lock:
            alive -= 1

    def process(image: Image.Image) -> np.ndarray:
        nonlocal alive
        with lock:
            alive += 1
            seen.append(alive)
        weakref.finalize(image, gone)
        time.sleep(0.01)  # so that others come between
        return np.asarray(image)[:4, :4].astype(np.float32)

    column = pa.array([encoded(picture(seed=seed)) for seed in range(40)])
    images = Images(column, "photo", NO_FILES, "RGB", process)
    assert not seen
    assert images[slice(5, 8)].shape == (3, 4, 4, 3)
    assert len(seen) == 3
    assert images[np.arange(40)].shape == (40, 4, 4, 3)
    assert max(seen) <= pa.cpu_count()
    assert alive == 0


@pytest.mark.parametrize(("device", "rows"), [("cpu", 5), ("cuda", 21)])
def test_a_batch_is_as_large_as_its_images_decoded_allow(tmp_path: Path, device: str, rows: int) -> None:
    """Of 512 x 256 pixels, 1.5 MiB each, for 8 and 32 MiB; encoded they have some kilobytes."""
    images = {"size": [512, 256]}
    engine, what = whole(tmp_path, images), step("torch", "nets:Whole", images)
    assert budget_for(engine, what, table([b"no image", *pictures()]), Batching(), device) == Budget(rows)


def test_rows_say_what_their_images_take(tmp_path: Path) -> None:
    assert whole(tmp_path, SIZE).prepare(table(pictures())).row_bytes == 3 * 12 * 16 * 4
    means(tmp_path / "net.onnx", [3, 12, 16], kind=TensorProto.UINT8)
    engine = open_engine(step("onnx", str(tmp_path / "net.onnx"), {**SIZE, "scale": None}))
    engine.load("cpu", "fp32", 1)
    assert engine.prepare(table(pictures())).row_bytes == 3 * 12 * 16


@pytest.mark.parametrize(
    ("shape", "images", "words"),
    [
        ([12, 16, 3], SIZE, r"images are float32 of shape \(3, 12, 16\).*change size, crop, mode or layout"),
        ([3, 16, 12], SIZE, "change size, crop, mode or layout"),
        ([1, 12, 16], SIZE, "change size, crop, mode or layout"),
        (
            [3, 12, 16],
            None,
            r"inputs.pixels: the onnx engine takes .*, not binary; of images, say in options.images how",
        ),
    ],
)
def test_images_that_do_not_fit_a_graph_are_refused(
    tmp_path: Path, shape: list[int], images: dict[str, Any] | None, words: str
) -> None:
    means(tmp_path / "net.onnx", shape)
    engine = open_engine(step("onnx", str(tmp_path / "net.onnx"), images))
    engine.load("cpu", "fp32", 1)
    with pytest.raises(ModelError, match=words):
        engine.prepare(table(pictures()))


def test_a_graph_of_8_bit_integers_wants_them_unscaled(tmp_path: Path) -> None:
    means(tmp_path / "net.onnx", [3, 12, 16], kind=TensorProto.UINT8)
    engine = open_engine(step("onnx", str(tmp_path / "net.onnx"), SIZE))
    engine.load("cpu", "fp32", 1)
    with pytest.raises(ModelError, match="set scale to null there"):
        engine.prepare(table(pictures()))


def test_options_for_images_that_no_column_has_are_refused(tmp_path: Path) -> None:
    numbers = pa.table({"photo": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2))})
    with pytest.raises(ModelError, match=r"model.options.images: no input is a column of bytes, paths"):
        whole(tmp_path, SIZE).prepare(numbers)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([None, None], pa.binary()),
        pa.array([None, None]),
        pa.array([{"bytes": None, "path": None}] * 2, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.array([None, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ],
)
def test_a_null_is_told_when_the_window_is_prepared(tmp_path: Path, column: pa.Array) -> None:
    with pytest.raises(TypeError, match="input pixels is null"):
        whole(tmp_path, SIZE).prepare(pa.table({"photo": column}))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({}, "model.options.images.size: Field required"),
        ({"size": 224}, "model.options.images: size: one number leaves images of many shapes: add crop"),
        ({"size": [224]}, r"model.options.images.size: write \[height, width\] in pixels, or one number"),
        ({"size": [0, 224]}, r"model.options.images.size: write \[height, width\]"),
        ({"size": True}, r"model.options.images.size: write \[height, width\]"),
        ({"size": 224, "crop": 256}, "crop: 256 is larger than size, 224"),
        ({"size": [8, 8], "mean": [0.5]}, "mean: has 1 values, and RGB has 3 channels"),
        ({"size": [8, 8], "mode": "L", "std": [1, 1, 1]}, "std: has 3 values, and L has 1 channels"),
        ({"size": [8, 8], "std": [1, 0, 1]}, "model.options.images.std.1: "),
        ({"size": [8, 8], "scale": "1/255"}, "model.options.images.scale: "),
        ({"size": [8, 8], "resampel": "lanczos"}, "images.resampel: there is no such option; did you mean resample?"),
        ({"size": [8, 8], "mode": "HSV"}, "model.options.images.mode: "),
    ],
)
@pytest.mark.parametrize("engine_name", ["torch", "onnx", "openvino"])
def test_wrong_options_are_told_when_the_job_is_planned(
    tmp_path: Path, engine_name: str, images: dict[str, Any], words: str
) -> None:
    means(tmp_path / "net.onnx", [3, 8, 8])
    (tmp_path / "nets.py").write_text(MODULE)
    what = step(engine_name, "nets:Means" if engine_name == "torch" else str(tmp_path / "net.onnx"), images)
    with pytest.raises(ModelError, match=words):
        check(what, [str(tmp_path)])


def test_an_exported_program_may_take_images(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"")
    check(step("torch", str(tmp_path / "net.pt2"), SIZE))


def test_pillow_is_needed_and_part_of_the_identity_where_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    means(tmp_path / "net.onnx", [3, 12, 16])
    with_images, without = (step("onnx", str(tmp_path / "net.onnx"), images) for images in (SIZE, None))
    assert "pillow" in identify(with_images).packages
    assert "pillow" not in identify(without).packages
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "PIL" else found(name))
    check(without)
    with pytest.raises(MissingExtraError, match=r"an input of images needs the package pillow: .*batchinfer\[images\]"):
        check(with_images)
