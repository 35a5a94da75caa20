"""Texts and images as models of transformers take them: by the tokenizer or the image processor in a model's folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.batches import TensorBatch
from batchinfer.engines.image_files import Files
from batchinfer.engines.images import Images
from batchinfer.engines.inputs import is_encoded
from batchinfer.engines.prepared_columns import Maker, PreparedColumns
from batchinfer.engines.protocol import Prepared, Rows
from batchinfer.engines.tokens import Format, TextBatch, TextRows, tokenised
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step

_SAMPLE_EDGE = 64
"""Pixels of an image that stands for any."""


class Reader(Protocol):
    """See above."""

    @property
    def max_length(self) -> int | None:
        """Tokens after which a row is cut."""

    def prepare(self, rows: pa.Table) -> Prepared:
        """As `Engine.prepare`."""

    def sample(self) -> TensorBatch:
        """Two rows."""

    def elsewhere(self) -> Reader:
        """The same for a host without a device."""


@dataclass(frozen=True)
class TextReader:
    """Texts, and pairs of texts."""

    step: Step
    tokenizer: Any
    """Of the library tokenizers."""
    prompt: str
    format: Format
    max_length: int | None
    maker: Maker | None
    """None where the texts have to be tokenised for each step."""

    @classmethod
    def of(
        cls,
        step: Step,
        tokenizer: Any,
        prompt: str,
        format_: Format,
        max_length: int | None,
        prepared: PreparedColumns | None,
    ) -> TextReader:
        """One of a step's, whose tokenizer cuts as it is to from now on; without `prepared` for one whose code may do anything."""
        maker = None
        if prepared is not None:
            told = (tokenizer.to_str(), prompt, format_.types_vary, format_.spans)
            maker = prepared.by(step.name, "tokens", metadata.version("tokenizers"), *told)
        return cls(step, tokenizer, prompt, format_, max_length, maker)

    def prepare(self, rows: pa.Table) -> TextRows:
        """Tokenise one window. Raises TypeError "text is null" or for what is no string, ValueError for no tokens."""
        names = [name for name in ("text", "text_pair") if name in self.step.inputs]
        columns = [rows.column(str(self.step.inputs[name])) for name in names]

        def make() -> pa.Table:
            return tokenised(self.tokenizer, columns, self.prompt, self.format)

        return TextRows(make() if self.maker is None else self.maker.of(columns, make), self.format)

    def sample(self) -> TextBatch:
        """Two texts of several tokens, so that neither size is taken for a constant."""
        columns = {str(column): ["a b c d e"] * 2 for column in self.step.inputs.values()}
        return self.prepare(pa.table(columns)).batch(slice(0, 2))

    def elsewhere(self) -> TextReader:
        """See Reader."""
        return replace(self, format=replace(self.format, pin=False))


class ImageRows:
    """One window of images, decoded when a batch takes them."""

    lengths = None
    truncated = None

    def __init__(self, images: Images, rows: int, row_bytes: int, dtype: Any, *, pin: bool) -> None:
        self._images, self._rows, self.row_bytes = images, rows, row_bytes
        self._dtype, self._pin = dtype, pin

    def __len__(self) -> int:
        return self._rows

    def batch(self, rows: Rows) -> TensorBatch:
        """These rows, in the model's precision. Raises ValueError for what can't be read or decoded."""
        import torch

        pixels = torch.from_numpy(self._images[rows]).to(self._dtype)
        return TensorBatch(len(pixels), {"pixel_values": pixels.pin_memory() if self._pin else pixels})


@dataclass(frozen=True)
class ImageReader:
    """Images of one column."""

    step: Step
    processor: Any
    files: Files
    dtype: Any
    """Of torch's, that the model computes in."""
    maker: Maker | None
    """None where the images have to be decoded for each step."""
    pin: bool
    max_length = None

    @classmethod
    def of(
        cls, step: Step, processor: Any, files: Files, dtype: Any, prepared: PreparedColumns | None, *, pin: bool
    ) -> ImageReader:
        """One of a step's; without `prepared` for a processor whose code may do anything."""
        maker = None
        if prepared is not None:
            packages = [metadata.version(name) for name in ("transformers", "pillow", "numpy")]
            told = ("images", type(processor).__name__, processor.to_json_string(), packages)
            maker = prepared.by(step.name, *told)
        return cls(step, processor, files, dtype, maker, pin=pin)

    def prepare(self, rows: pa.Table) -> ImageRows:
        """One window. Raises TypeError where an image is null, ModelError for a column that can't hold any."""
        column = rows.column(str(self.step.inputs["image"]))
        if pa.types.is_null(column.type):
            column = column.cast(pa.binary())
        if not is_encoded(column.type):
            raise ModelError(
                f"{self.step.name}.inputs.image: takes a column of encoded images (bytes), of paths, or of structs of both, not {column.type}"
            )
        row_bytes = self._example().nbytes
        images = Images(column, "image", self.files, "RGB", self._process, row_bytes, self.maker)
        return ImageRows(images, len(rows), row_bytes, self.dtype, pin=self.pin)

    def sample(self) -> TensorBatch:
        """See Reader."""
        import torch

        pixels = torch.from_numpy(np.stack([self._example()] * 2)).to(self.dtype)
        return TensorBatch(2, {"pixel_values": pixels})

    def elsewhere(self) -> ImageReader:
        """See Reader."""
        return replace(self, pin=False)

    def _process(self, image: Any) -> NDArray[np.float32]:
        (pixels,) = self.processor(images=[image], return_tensors="np")["pixel_values"]
        return np.asarray(pixels, np.float32)

    def _example(self) -> NDArray[np.float32]:
        from PIL import Image

        return self._process(Image.new("RGB", (_SAMPLE_EDGE, _SAMPLE_EDGE)))


def image_processor(folder: Path, where: str, *, trusted: bool) -> Any:
    """The image processor of a model by Pillow, whatever else is installed: others give other values.

    Raises ModelError where there is none, and what transformers raises.
    """
    from transformers import AutoImageProcessor

    major = int(metadata.version("transformers").partition(".")[0])
    asked = {"backend": "pil"} if major > 4 else {"use_fast": False}
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted, **asked)
    if getattr(processor, "backend", "pil") != "pil" or getattr(processor, "is_fast", False):
        raise ModelError(
            f"{where}: {type(processor).__name__} of {folder} needs torchvision; only processors by Pillow are used"
        )
    return processor
