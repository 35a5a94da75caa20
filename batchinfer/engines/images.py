"""Columns of encoded images, or of paths to them: looked at for a window, read and decoded for a batch."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchinfer.engines.image_files import Files
from batchinfer.engines.inputs import Column, contiguous, is_binary, take
from batchinfer.engines.protocol import Rows

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Those that are read, as Pillow names them. Others are left out: some of its readers start programs, or are hardly ever used."""

_RATIO = 1000
"""Of an image's edges, at most: resized to what a model takes, a thinner one would fill the memory."""

Process = Callable[[Any], NDArray[Any]]
"""From an upright image of Pillow's to what the model takes of it; of one shape and type for all."""


class Images:
    """The images of one column of a window. `images[rows]` reads and decodes those rows, and nothing is kept of them.

    Args:
        column: of bytes, of paths, or of structs of both, of which the bytes are taken where there are any.
        name: the input's, for messages.
        files: where paths lead.
        mode: of Pillow's, that each image is converted to.
        process: makes an array of each.

    Raises TypeError where a value is null, and ModelError for a column of paths where no row may name a file.
    """

    def __init__(self, column: Column, name: str, files: Files, mode: str, process: Process) -> None:
        self._bytes, self._paths = _parts(contiguous(column), name)
        if self._bytes is None:
            files.check(name)
        self._name, self._files, self._mode, self._process = name, files, mode, process

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        """An array with as many rows. Raises ValueError naming the input for what is no image, and for a path without a file."""
        encoded = self._encoded(rows)
        # As many threads as the worker may use, and no more images than these in their full size at a time.
        with ThreadPoolExecutor(pa.cpu_count()) as pool:
            return np.stack(list(pool.map(self._decoded, encoded)))

    def _decoded(self, data: bytes) -> NDArray[Any]:
        return self._process(decode(data, self._name, self._mode))

    def _encoded(self, rows: Rows) -> list[bytes]:
        data: list[Any] = [] if self._bytes is None else take(self._bytes, rows).to_pylist()
        if self._paths is None:
            return data
        paths = take(self._paths, rows).to_pylist()
        data = data or [None] * len(paths)
        lacking = [row for row, value in enumerate(data) if value is None]
        for row, value in zip(lacking, self._files.read([paths[row] for row in lacking], self._name), strict=True):
            data[row] = value
        return data


def _parts(column: pa.Array, name: str) -> tuple[pa.Array | None, pa.Array | None]:
    """Bytes and paths of a column, whichever there are; where both are, a row may lack one of them."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not pa.types.is_struct(column.type):
        if column.null_count:
            raise TypeError(f"input {name} is null")
        return (column, None) if is_binary(column.type) else (None, column)
    data, paths = (pc.struct_field(column, part) for part in ("bytes", "path"))  # null where the struct is
    if pc.any(pc.and_(pc.is_null(data), pc.is_null(paths))).as_py():
        raise TypeError(f"input {name} is null, or has neither bytes nor a path")
    return data, paths if data.null_count else None


def decode(data: bytes, name: str, mode: str) -> Any:
    """The first frame of an encoded image, upright as its EXIF says, in a mode of Pillow's: channels of 8 bits, without transparency.

    Raises ValueError for what is no image, is damaged, or would become so large that it may be meant to exhaust the memory.
    """
    from PIL import UnidentifiedImageError

    try:
        return _upright(data, mode)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"input {name} is no image of a format that is read ({', '.join(FORMATS)})") from None
    except Exception as error:  # its readers raise what they like
        raise ValueError(f"input {name} can't be decoded: {type(error).__name__}: {error}") from error


def _upright(data: bytes, mode: str) -> Any:
    from PIL import Image, ImageOps

    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if max(image.size) > _RATIO * min(image.size):
        raise ValueError(f"it has {image.width} x {image.height} pixels, and one edge may be {_RATIO} times the other")
    if image.mode in ("I", "F"):
        raise ValueError("its values are of 32 bits, of a range that isn't known: save it with 8 or 16")
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):  # Pillow would cut it off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)
