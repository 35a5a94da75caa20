"""A verb's docstring as its help has it: what it does, `Examples:` and `Exit codes:`."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass

_HEADING = re.compile(r"^(Examples|Exit codes):$", re.MULTILINE)
_CODE = re.compile(r"(\d+): (.+)")


@dataclass(frozen=True)
class Sections:
    """The parts of a verb's help."""

    text: str
    """Paragraphs, parted by empty lines; the first is the line that lists of verbs show."""
    examples: tuple[str, ...] = ()
    """Lines of a shell, each a command of its own, perhaps with a comment behind it."""
    exit_codes: tuple[tuple[str, str], ...] = ()
    """Code and meaning."""


def sections(docstring: str) -> Sections:
    """The parts of a docstring. Raises ValueError for a line of `Exit codes:` that is no `code: meaning`."""
    text, *rest = _HEADING.split(inspect.cleandoc(docstring))
    found = dict(zip(rest[::2], rest[1::2], strict=True))
    examples = [line.strip() for line in found.get("Examples", "").splitlines() if line.strip()]
    codes: list[tuple[str, str]] = []
    for line in textwrap.dedent(found.get("Exit codes", "")).strip().splitlines():
        if line.startswith(" ") and codes:
            codes[-1] = (codes[-1][0], f"{codes[-1][1]} {line.strip()}")
            continue
        match = _CODE.fullmatch(line)
        if match is None:
            raise ValueError(f"no `code: meaning`: {line!r}")
        codes.append((match[1], match[2]))
    return Sections(text.strip(), tuple(examples), tuple(codes))
