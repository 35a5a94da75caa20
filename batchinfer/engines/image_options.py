"""What may stand in a step about its images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from batchinfer.job.values import Model, Text


def _edges(value: object) -> object:
    both = value if isinstance(value, list) else [value, value]
    if len(both) != 2 or not all(type(edge) is int and edge > 0 for edge in both):
        raise ValueError("write [height, width] in pixels, or one number")
    return value


_Edges = Annotated[int | list[int], BeforeValidator(_edges)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class ImageFiles(Model):
    """Where the images of a column of paths are."""

    root: Annotated[
        Text | None,
        Field(description="folder or URL that the paths of a column are below, and nothing else is read of"),
    ] = None


class ImageOptions(ImageFiles):
    """How an image becomes an array of the model's: decoded, turned upright, and then what is here, in this order."""

    mode: Annotated[Literal["RGB", "BGR", "L"], Field(description="channels; L is grey")] = "RGB"
    size: Annotated[_Edges, Field(description="[height, width] to resize to, or the length of the shorter edge")]
    resample: Annotated[
        Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"],
        Field(description="Pillow's filter for resizing"),
    ] = "bilinear"
    crop: Annotated[
        _Edges | None, Field(description="[height, width] of the middle that is kept, or both in one number")
    ] = None
    scale: Annotated[
        _Number | None,
        Field(description="what values from 0 to 255 are multiplied by; null leaves them 8-bit integers"),
    ] = 1 / 255
    mean: Annotated[list[_Number] | None, Field(description="of each channel, subtracted")] = None
    std: Annotated[list[Annotated[_Number, Field(gt=0)]] | None, Field(description="of each channel, divided by")] = (
        None
    )
    layout: Annotated[Literal["nchw", "nhwc"], Field(description="order of rows, channels, height and width")] = "nchw"

    @model_validator(mode="after")
    def _goes_together(self) -> ImageOptions:
        if isinstance(self.size, int) and self.crop is None:
            raise ValueError("size: one number leaves images of many shapes: add crop, or write [height, width]")
        if self.crop is not None and any(a > b for a, b in zip(pair(self.crop), pair(self.size), strict=True)):
            raise ValueError(f"crop: {self.crop} is larger than size, {self.size}")
        channels = 1 if self.mode == "L" else 3
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given is not None and len(given) != channels:
                raise ValueError(f"{name}: has {len(given)} values, and {self.mode} has {channels} channels")
        return self


def pair(edges: int | list[int]) -> list[int]:
    """Height and width, of one number for both."""
    return [edges, edges] if isinstance(edges, int) else edges
