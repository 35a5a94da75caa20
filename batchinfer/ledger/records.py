"""JSON records on the store. Each carries a nonce, so that reading one back tells whose it is."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

from batchinfer.errors import OutputError
from batchinfer.storage.paths import number_of
from batchinfer.storage.store import Store


def to_bytes(value: dict[str, Any]) -> bytes:
    """A record as stored: one key order, so that equal records have equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode(
        "utf-8",
        "surrogatepass",  # a file name that is no UTF-8 reads back as it was
    )


def numbers(store: Store, folder: str) -> list[int]:
    """The numbers of a folder's records, ascending; any other file there is passed over."""
    return sorted(n for e in store.list(folder) if (n := number_of(e.path)) is not None)


def newest(store: Store, spell: Callable[[int], str]) -> int:
    """The highest number of a folder's records, which are numbered from 1 without a gap; 0 where there is none.

    A listing may be late. So it only says where to begin: what stands beyond it is found by reading on.

    Args:
        store: the output.
        spell: the path of a record by its number.

    """
    number = max(numbers(store, spell(1).rpartition("/")[0]), default=0)
    while find(store, spell(number + 1)) is not None:
        number += 1
    return number


def create(store: Store, path: str, value: dict[str, Any]) -> bool:
    """Create a record; True when the one that stands there is this one."""
    return store.create(path, to_bytes({**value, "nonce": secrets.token_hex(16)}))


def read(store: Store, path: str) -> dict[str, Any]:
    """Read a record. Raises FileNotFoundError where there is none, OutputError where it is no JSON object."""
    data = store.read(path)
    try:
        value = json.loads(data)
    except ValueError as e:
        raise OutputError(f"{store.root}/{path}: not a record of batchinfer ({e}); was it edited or cut off?") from e
    if not isinstance(value, dict):
        raise OutputError(f"{store.root}/{path}: not a record of batchinfer")
    return value


def find(store: Store, path: str) -> dict[str, Any] | None:
    """Read a record; None where there is none."""
    try:
        return read(store, path)
    except FileNotFoundError:
        return None
