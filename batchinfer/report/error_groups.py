"""Dead letters by what went wrong, the most frequent first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_EXAMPLES = 3
"""Rows that are shown of a group."""


@dataclass(frozen=True)
class Example:
    """Where one of the rows came from."""

    source_file: str
    source_row: int
    key: str | None


@dataclass
class ErrorGroup:
    """Rows that could not be predicted for one reason."""

    error_class: str
    error_type: str
    message: str
    rows: int = 0
    resolved: int = 0
    """Of the rows, those that a retry settled."""
    examples: list[Example] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A value for JSON."""
        return asdict(self)


def group(dead_letters: Iterable[Mapping[str, Any]]) -> list[ErrorGroup]:
    """Dead letters, by column, grouped by class, type and message, with the first few rows of each as examples."""
    groups: dict[tuple[str, str, str], ErrorGroup] = {}
    for row in dead_letters:
        kind = (row["error_class"], row["error_type"], row["message"])
        found = groups.setdefault(kind, ErrorGroup(*kind))
        found.rows += 1
        found.resolved += row["resolved_by"] is not None
        if len(found.examples) < _EXAMPLES:
            found.examples.append(Example(row["source_file"], row["source_row"], row["key"]))
    return sorted(groups.values(), key=lambda g: -g.rows)
