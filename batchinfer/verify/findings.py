"""What a verification finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from batchinfer.ledger.parts import Counts

ADVICE = "put it back from a copy, or begin anew with --restart"


class Kind(StrEnum):
    """What is wrong with a file."""

    MISSING = "missing"
    EXTRA = "extra"
    ALTERED = "altered"
    """Its bytes are not those that were written."""
    UNSOUND = "unsound"
    """Its bytes are as recorded, or nothing is recorded of them, and what they say can't be true."""
    DIFFERENT = "different"
    """It differs from the input that it was made of."""
    UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against the output."""

    kind: Kind
    path: str
    """Relative to the output."""
    message: str
    """What is wrong."""
    advice: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: {self.message}; {self.advice}"


@dataclass
class Verification:
    """What was looked at and what was found."""

    deep: bool
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be compared, and why; nothing that speaks against the output."""
    rows: Counts = field(default_factory=Counts)
    """By the footers of the parts that stand; planned by the plan."""
    parts: int = 0
    bytes: int = 0
    """Of parts and dead letters."""

    @property
    def exit_code(self) -> int:
        """0, or 3 with findings."""
        return 3 if self.findings else 0

    def to_json(self) -> dict[str, Any]:
        """A value for JSON."""
        return {
            "exit_code": self.exit_code,
            "deep": self.deep,
            "rows": asdict(self.rows),
            "parts": self.parts,
            "bytes": self.bytes,
            "findings": [asdict(f) for f in self.findings],
            "notes": self.notes,
        }
