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
from batchinfer.engines.prepared_columns import Maker
from batchinfer.engines.protocol import Rows

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Those that are read, as Pillow names them. Others are left out: some of its readers start programs, or are hardly ever used."""

_RATIO = 1000
"""Of an image's edges, at most: resized to what a model takes, a thinner one would fill the memory."""

_BLOCK_BYTES = 4 << 20
"""Of images as arrays that are kept together."""

Process = Callable[[Any], NDArray[Any]]
"""From an upright image of Pillow's to what the model takes of it; of one shape and type for all."""


class Images:
    """The images of one column of a window. `images[rows]` reads and decodes those rows, and nothing is kept of them.

    Args:
        column: of bytes, of paths, or of structs of both, of which the bytes are taken where there are any.
        name: the input's, for messages.
        files: where paths lead.
        mode: of Pillow's, that each image is converted to.
        process: makes an array of each, of `row_bytes`.
        maker: where these arrays are kept, a few rows of the column at a time; None for nowhere. Those that paths lead to aren't: another
            file may be there next time.

    Raises TypeError where a value is null, and ModelError for a column of paths where no row may name a file.
    """

    def __init__(
        self,
        column: Column,
        name: str,
        files: Files,
        mode: str,
        process: Process,
        row_bytes: int = 0,
        maker: Maker | None = None,
    ) -> None:
        self._bytes, self._paths = _parts(contiguous(column), name)
        if self._bytes is None:
            files.check(name)
        self._name, self._files, self._mode, self._process = name, files, mode, process
        self._maker = maker if maker is not None and maker.is_remembered and self._paths is None else None
        self._block = max(1, _BLOCK_BYTES // max(1, row_bytes))
        self._broken: set[int] = set()
        """Blocks with a row that is no image."""

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        """An array with as many rows. Raises ValueError naming the input for what is no image, and for a path without a file."""
        if self._maker is None:
            return self._made(rows)
        assert self._bytes is not None
        at = np.arange(len(self._bytes))[rows]
        blocks = {int(number): self._kept(self._maker, int(number)) for number in np.unique(at // self._block)}
        lone = [row for row in map(int, at) if blocks[row // self._block] is None]
        alone = dict(zip(lone, self._made(np.array(lone)), strict=True)) if lone else {}
        return np.stack(
            [
                alone[row] if (block := blocks[row // self._block]) is None else block[row % self._block]
                for row in map(int, at)
            ]
        )

    def _kept(self, maker: Maker, number: int) -> NDArray[Any] | None:
        """A block of rows; None for one with a row that is no image."""
        assert self._bytes is not None
        if number in self._broken:
            return None
        rows = slice(number * self._block, (number + 1) * self._block)

        def make() -> pa.Table:
            return pa.table({"pixels": pa.FixedShapeTensorArray.from_numpy_ndarray(self._made(rows))})

        try:
            pixels = maker.of([take(self._bytes, rows)], make)["pixels"].combine_chunks()
        except Exception:  # noqa: BLE001 - which row it is shows when that is asked for
            self._broken.add(number)
            return None
        array: NDArray[Any] = pixels.to_numpy_ndarray()
        return array

    def _made(self, rows: Rows) -> NDArray[Any]:
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
