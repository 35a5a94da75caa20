"""JSON records on the store. Each carries a nonce, so that reading one back tells whose it is, and is sealed.

The seal is the record's last key: the SHA-256 of the bytes before it. A record that was edited, cut off or hit by a flipped bit is
refused instead of believed.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from typing import Any

from batchinfer.errors import OutputError
from batchinfer.storage.paths import number_of
from batchinfer.storage.store import Store

_SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n')
_SEAL_BYTES = 82


def to_bytes(value: dict[str, Any]) -> bytes:
    """A record as stored, which must have a key: one order of keys, so that equal records have equal bytes, and the seal."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False)
    # surrogatepass: a file name that is no UTF-8 reads back as it was.
    body = text.removesuffix("\n}").encode("utf-8", "surrogatepass")
    return b'%s,\n "sha256": "%s"\n}\n' % (body, hashlib.sha256(body).hexdigest().encode())


def from_bytes(data: bytes, where: str) -> dict[str, Any]:
    """The inverse of `to_bytes`. Raises OutputError where `data`, read from `where`, isn't what was written there."""
    seal = _SEAL.fullmatch(data[-_SEAL_BYTES:])
    if seal is None or hashlib.sha256(data[:-_SEAL_BYTES]).hexdigest().encode() != seal[1]:
        raise OutputError(
            f"{where}: this record isn't as batchinfer wrote it: it was edited, cut off or damaged. "
            "Put it back as it was, begin anew with --restart, or, where that is refused too, give another output.path"
        )
    value: dict[str, Any] = json.loads(data)
    del value["sha256"]
    return value


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
    """Read a record. Raises FileNotFoundError where there is none, OutputError where it isn't as it was written."""
    return from_bytes(store.read(path), f"{store.root}/{path}")


def find(store: Store, path: str) -> dict[str, Any] | None:
    """Read a record; None where there is none."""
    try:
        return read(store, path)
    except FileNotFoundError:
        return None
