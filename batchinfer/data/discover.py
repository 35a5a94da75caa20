"""Which files a job's `input.path` names: a file, a directory, a glob, or a list of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from batchinfer.data.hive import Partition, partition_of
from batchinfer.data.volumes import Volumes, absolute
from batchinfer.errors import InputError
from batchinfer.storage.store import Entry, Store, is_local

_SUFFIXES = (".parquet", ".parq", ".pq")
_MAGIC = re.compile(r"[*?\[]")
_TABLE_FORMATS = {
    "_delta_log": ("Delta", "deltalake's DeltaTable(path).file_uris()"),
    ".hoodie": ("Hudi", "the table's own reader"),
}


@dataclass(frozen=True)
class Found:
    """One file to read."""

    url: str
    store: Store
    path: str
    """Inside the store."""
    entry: Entry
    partition: Partition


@dataclass(frozen=True)
class Discovery:
    """What was found: the files in input order, and what lies beside them and is no Parquet."""

    files: tuple[Found, ...]
    ignored: tuple[str, ...]
    """URLs; names that start with `_` or `.` are not among them."""


def discover(paths: Sequence[str], volumes: Volumes) -> Discovery:
    """Expand `paths` in their order, each in the order of path bytes.

    Raises:
        InputError: a path matches no file, one file is named twice, or a directory belongs to a table format.
        StorageError, AccessError: the store can't be listed.

    """
    files: list[Found] = []
    ignored: list[str] = []
    for path in paths:
        files.extend(_expand(absolute(path), volumes, ignored))
    _refuse_twice(files)
    return Discovery(tuple(files), tuple(ignored))


def _expand(url: str, volumes: Volumes, ignored: list[str]) -> Iterator[Found]:
    store, path = volumes.locate(url)
    entries = store.list(path)
    if len(entries) == 1 and entries[0].path == path:  # named as such: any name will do, even one with glob characters
        yield Found(url, store, path, entries[0], ())
        return
    base, pattern = path, None
    magic = _MAGIC.search(path)
    if not entries and magic:
        base = path[: path.rfind("/", 0, magic.start()) + 1].rstrip("/")
        pattern = _regex(path[len(base) :].lstrip("/"))
        entries = store.list(base)
    top = url[: len(url) - len(path)] + base
    count = 0
    for entry in sorted(entries, key=lambda e: e.path.encode()):
        below = entry.path[len(base) :].lstrip("/")
        _refuse_table_format(below, top)
        segments = below.split("/")
        if any(s.startswith(("_", ".")) for s in segments) or (pattern and not pattern.fullmatch(below)):
            continue
        full = f"{top.rstrip('/')}/{below}"
        if segments[-1].lower().endswith(_SUFFIXES):
            count += 1
            yield Found(full, store, entry.path, entry, partition_of(segments[:-1], full))
        else:
            ignored.append(full)
    if count == 0:
        raise InputError(_nothing(url, top, len(entries)))


def _nothing(url: str, top: str, seen: int) -> str:
    """Why a path matches nothing, as far as it can be told."""
    if seen:
        why = f"of the {seen} files below {top} none is a Parquet file ({', '.join(_SUFFIXES)}; names that start with _ or . are skipped)"
    elif is_local(url) and os.path.islink(top):  # noqa: PTH114 - as below
        why = f"it is a symbolic link to {os.readlink(top)}, which isn't there"  # noqa: PTH115 - as below
    elif is_local(url):
        parent = next(p for p in Path(top or "/", "x").parents if p.exists())
        why = f"{parent} is empty" if str(parent) == top else f"the nearest folder that exists is {parent}"
    else:
        why = "nothing is stored below it; check bucket, path and endpoint"
    return f"input.path: {url} matches no file: {why}"


def _refuse_table_format(below: str, top: str) -> None:
    for marker, (name, tool) in _TABLE_FORMATS.items():
        if marker in below and marker in below.split("/"):
            folder = f"{top}/{below}".partition(f"/{marker}")[0]
            raise InputError(
                f"{folder} is a {name} table ({marker}): reading its directory would also read files that the table has dropped. "
                f"List the current files in input.path ({tool} names them), or export the table to plain Parquet"
            )


def _refuse_twice(files: Sequence[Found]) -> None:
    seen: dict[str, str] = {}
    for file in files:
        real = _real(file.url) if is_local(file.url) else file.url
        other = seen.setdefault(real, file.url)
        if other is not file.url:
            also = "" if other == file.url else f" ({other} and {file.url} are the same file)"
            raise InputError(
                f"input.path: {file.url} is named twice{also}: its rows would be predicted twice; name it once"
            )


def _real(path: str) -> str:
    """The path without symbolic links; folders are resolved once."""
    if os.path.islink(path):  # noqa: PTH114 - ten thousand files: strings are several times cheaper than Path
        return os.path.realpath(path)
    folder, _, name = path.rpartition("/")
    return f"{_real_folder(folder)}/{name}"


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _regex(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression over whole relative paths; a folder that matches stands for everything below it.

    `*` and `?` stay inside one name, `**` crosses folders, `[abc]`, `[a-z]` and `[!a]` are one character.
    """
    out = ""
    i = 0
    while i < len(glob):
        if glob.startswith("**/", i):
            out, i = out + "(?:[^/]+/)*", i + 3
        elif glob.startswith("**", i):
            out, i = out + ".*", i + 2
        elif glob[i] == "*":
            out, i = out + "[^/]*", i + 1
        elif glob[i] == "?":
            out, i = out + "[^/]", i + 1
        elif glob[i] == "[" and (end := glob.find("]", i + 2)) > 0:
            inside = glob[i + 1 : end]
            negated = inside.startswith(("!", "^"))
            chosen = re.sub(r"([\\\[\]^&|~])", r"\\\1", inside[negated:])
            out, i = out + (f"[^/{chosen}]" if negated else f"[{chosen}]"), end + 1
        else:
            out, i = out + re.escape(glob[i]), i + 1
    try:
        return re.compile(f"{out}(?:/.*)?", re.DOTALL)
    except re.error as e:
        raise InputError(
            f"input.path: {glob!r} is not a glob that can be understood ({e}); escape a bracket as [[]"
        ) from e
