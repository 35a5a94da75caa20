"""Kinds of values in a job file, as pydantic checks them and as the JSON Schema tells them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Model(BaseModel):
    """What every part of a job file has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
AutoCount = Literal["auto"] | Count
Share = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Money = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = r"^\s*(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|m|h|d)\s*$"
_BYTES = (
    {"B": 1}
    | {f"{p}B": 1000 ** (n + 1) for n, p in enumerate("kMGT")}
    | {f"{p}iB": 1024 ** (n + 1) for n, p in enumerate("KMGT")}
)
_SIZE = r"^\s*(\d{1,9}(?:\.\d{1,9})?)\s*(B|[kMGT]B|[KMGT]iB)\s*$"
_SHARE = r"^\s*(\d{1,3}(?:\.\d{1,9})?)\s*%\s*$"


def _seconds(value: object) -> object:
    """`5s`, `200ms`, `1.5h`, or a bare number of seconds."""
    match = re.match(_DURATION, value) if isinstance(value, str) else None
    seconds = float(match[1]) * _UNITS[match[2]] if match else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise ValueError("write a duration above zero such as 5s, 200ms, 10m or 6h")
    return seconds


def _bytes(value: object) -> object:
    """`10GB`, `500MiB`, or a bare number of bytes."""
    match = re.match(_SIZE, value) if isinstance(value, str) else None
    size = int(float(match[1]) * _BYTES[match[2]]) if match else value
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        raise ValueError("write a size above zero such as 500MB, 10GB or 1TiB")
    return size


def _threshold(value: object) -> object:
    match = re.match(_SHARE, value) if isinstance(value, str) else None
    if match is not None and float(match[1]) <= 100:
        return f"{match[1]}%"
    if isinstance(value, bool) or not isinstance(value, int) or value < -1:
        raise ValueError("write a number of rows, a share of the planned rows such as 0.1%, or -1 for any number")
    return value


Duration = Annotated[
    float,
    BeforeValidator(
        _seconds,
        json_schema_input_type=Annotated[str, Field(pattern=_DURATION)] | Annotated[float, Field(gt=0)],
    ),
]
Bytes = Annotated[
    int,
    BeforeValidator(_bytes, json_schema_input_type=Annotated[str, Field(pattern=_SIZE)] | Annotated[int, Field(ge=1)]),
]
Threshold = Annotated[
    int | str,
    BeforeValidator(
        _threshold, json_schema_input_type=Annotated[int, Field(ge=-1)] | Annotated[str, Field(pattern=_SHARE)]
    ),
]
