"""The pinned input: which files, and which rows of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputFile:
    """One Parquet file as it was when the job was planned."""

    path: str
    """Full URL, or an absolute local path."""
    size: int
    """Bytes."""
    version: str
    """ETag or generation of an object, modification time in nanoseconds of a local file."""
    footer: str
    """SHA-256 of the footer's bytes (hexadecimal)."""
    rows: int
    partition: tuple[tuple[str, str | None], ...] = ()
    """Hive partition keys and values from the path, in path order; None stands for Hive's null."""


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of one file."""

    file: InputFile
    start: int
    """First row in the file, from 0."""
    rows: int
    pruned: bool = False
    """True where statistics prove that `where` holds for no row: the rows count as filtered and are not read."""
