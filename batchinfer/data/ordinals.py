"""Sorted sets of row numbers as short text: run lengths where they are sparse or dense, bits where they are neither.

No compressor is used: equal sets must give equal text on every machine, and zlib's builds differ.
"""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import NDArray

_MOST_BITS = 2**27


def encode(ordinals: NDArray[np.int64]) -> str:
    """Text of a set of numbers, the shorter of two forms.

    Args:
        ordinals: int64 of shape (n,), strictly ascending, not negative.

    Raises:
        ValueError: they aren't.

    """
    if ordinals.size == 0:
        return ""
    if ordinals[0] < 0 or (np.diff(ordinals) <= 0).any():
        raise ValueError("ordinals must ascend strictly and not be negative")
    breaks = np.flatnonzero(np.diff(ordinals) > 1) + 1
    starts = ordinals[np.concatenate(([0], breaks))]
    ends = ordinals[np.concatenate((breaks - 1, [ordinals.size - 1]))] + 1
    borders = np.empty(2 * starts.size, np.int64)
    borders[0::2], borders[1::2] = starts, ends
    runs = _varints(np.diff(borders, prepend=0))
    if ordinals[-1] >= len(runs) * 8 or ordinals[-1] >= _MOST_BITS:
        return "r" + base64.b64encode(runs).decode()
    bits = np.zeros(int(ordinals[-1]) + 1, np.uint8)
    bits[ordinals] = 1
    return "b" + base64.b64encode(np.packbits(bits).tobytes()).decode()


def decode(text: str) -> NDArray[np.int64]:
    """The numbers that `encode` was given, int64 of shape (n,). Raises ValueError for any other text."""
    if not text:
        return np.empty(0, np.int64)
    try:
        data = base64.b64decode(text[1:], validate=True)
    except binascii.Error as e:
        raise ValueError(f"not a set of ordinals: {e}") from e
    if text[0] == "b":
        return np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8))).astype(np.int64)
    if text[0] != "r":
        raise ValueError(f"not a set of ordinals: unknown form {text[0]!r}")
    lengths = _from_varints(np.frombuffer(data, np.uint8))
    if lengths.size % 2 or (lengths[1:] <= 0).any() or lengths.sum() >= 2**40 or lengths[1::2].sum() > _MOST_BITS:
        raise ValueError("not a set of ordinals: runs that can't be")
    borders = np.cumsum(lengths)
    starts, counts = borders[0::2], lengths[1::2]
    before = np.repeat(starts - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
    return (before + np.arange(before.size)).astype(np.int64)


def _varints(values: NDArray[np.int64]) -> bytes:
    """LEB128: seven bits a byte, lowest first, the top bit set where more follow."""
    groups = (values[:, None] >> np.arange(0, 63, 7)) & 0x7F
    used = np.maximum(1, 9 - np.argmax(groups[:, ::-1] != 0, axis=1))
    used[values == 0] = 1
    place = np.arange(9)
    more = place < used[:, None] - 1
    return bytes((groups | (more << 7)).astype(np.uint8)[place < used[:, None]].tobytes())


def _from_varints(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    last = np.flatnonzero(data < 0x80)
    if last.size == 0 or last[-1] != data.size - 1:
        raise ValueError("not a set of ordinals: cut off")
    starts = np.concatenate(([0], last[:-1] + 1))
    if (last - starts > 8).any():
        raise ValueError("not a set of ordinals: a number too large")
    shift = 7 * (np.arange(data.size) - np.repeat(starts, last - starts + 1))
    return np.add.reduceat((data & 0x7F).astype(np.int64) << shift, starts)
