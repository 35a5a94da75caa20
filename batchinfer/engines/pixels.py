"""Columns of images as arrays, in the way that a step's options have them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchinfer.engines.image_files import Files
from batchinfer.engines.image_options import ImageOptions, pair
from batchinfer.engines.images import Images
from batchinfer.engines.inputs import Column, is_encoded
from batchinfer.engines.prepared_columns import Maker, PreparedColumns
from batchinfer.errors import ModelError
from batchinfer.storage.store import StorageOptions


class ImageColumns:
    """See above.

    Args:
        options: None where the step says nothing of images.
        storage: fsspec options by URL prefix.
        step: its name.
        prepared: where images are kept as arrays.

    """

    def __init__(
        self, options: ImageOptions | None, storage: StorageOptions, step: str, prepared: PreparedColumns
    ) -> None:
        self._options, self._where = options, f"{step}.options.images"
        self.files = Files(None if options is None else options.root, storage, self._where)
        self._maker: Maker | None = None
        if options is not None:
            packages = [metadata.version(name) for name in ("pillow", "numpy")]
            self._maker = prepared.by(step, "pixels", options.model_dump(mode="json", exclude={"root"}), packages)

    def takes(self, column: Column) -> bool:
        """Whether a column is one of images; none is, where the step doesn't say how they are read."""
        return self._options is not None and is_encoded(column.type)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        options = self._said
        high, wide = pair(options.size if options.crop is None else options.crop)
        channels = 1 if options.mode == "L" else 3
        return (channels, high, wide) if options.layout == "nchw" else (high, wide, channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an image."""
        return np.dtype(np.float32 if _is_scaled(self._said) else np.uint8)

    def images(self, column: Column, name: str) -> Images:
        """A column that `takes` is true of. Raises TypeError where an image is null, ModelError for paths that no root is given for."""
        options = self._said
        mode = "L" if options.mode == "L" else "RGB"
        return Images(column, name, self.files, mode, partial(pixels, options=options), self._image_bytes, self._maker)

    def row_bytes(self, values: Mapping[str, Any]) -> int | None:
        """Bytes of the images of a row, None where there are none. Raises ModelError where there are none and the step says how to read them."""
        count = sum(isinstance(value, Images) for value in values.values())
        if count:
            return count * self._image_bytes
        if self._options is not None:
            raise ModelError(f"{self._where}: no input is a column of bytes, paths or structs of both: remove it")
        return None

    @property
    def _image_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def _said(self) -> ImageOptions:
        assert self._options is not None, "the step says nothing of images"
        return self._options


def pixels(image: Any, options: ImageOptions) -> NDArray[Any]:
    """An image of Pillow's as an array, of the shape and type that `ImageColumns` says."""
    from PIL import Image

    size = _resized(image.size, options.size)
    if image.size != size:
        image = image.resize(size, Image.Resampling[options.resample.upper()])
    if options.crop is not None:
        high, wide = pair(options.crop)
        # Rounded as torchvision does, with which most weights were trained.
        left, top = round((size[0] - wide) / 2), round((size[1] - high) / 2)
        image = image.crop((left, top, left + wide, top + high))
    array: NDArray[Any] = np.asarray(image)
    array = array[:, :, None] if array.ndim == 2 else array
    if options.mode == "BGR":
        array = array[:, :, ::-1]
    if _is_scaled(options):
        array = array.astype(np.float32)
        array *= np.float32(1 if options.scale is None else options.scale)
        if options.mean is not None:
            array -= np.array(options.mean, np.float32)
        if options.std is not None:
            array /= np.array(options.std, np.float32)
    return np.ascontiguousarray(array.transpose(2, 0, 1) if options.layout == "nchw" else array)


def _is_scaled(options: ImageOptions) -> bool:
    return (options.scale, options.mean, options.std) != (None, None, None)


def _resized(size: tuple[int, int], edges: int | list[int]) -> tuple[int, int]:
    """Width and height: as asked, or the shorter edge as asked and the other in proportion, cut to whole pixels as torchvision does."""
    if not isinstance(edges, int):
        return edges[1], edges[0]
    wide, high = size
    return (edges, int(edges * high / wide)) if wide <= high else (int(edges * wide / high), edges)
