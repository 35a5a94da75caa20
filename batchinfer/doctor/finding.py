"""What an examination found, in words and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from batchinfer.job.secrets import Secrets


class State(StrEnum):
    """How it is with one thing."""

    FINE = "fine"
    ABSENT = "absent"
    """It isn't there, and needn't be."""
    WARNING = "warning"
    """It is there, and may be in the way."""
    WRONG = "wrong"
    """Nothing runs, or not this job, before it is mended."""
    UNKNOWN = "unknown"
    """It could not be found out."""


@dataclass(frozen=True)
class Finding:
    """One line of an examination."""

    topic: str
    state: State
    text: str
    advice: str = ""
    """What to do, such as a command; empty where nothing needs to be done."""

    def without(self, secrets: Secrets) -> Finding:
        """The same without the secrets."""
        return replace(self, text=secrets.hide(self.text), advice=secrets.hide(self.advice))

    def to_json(self) -> dict[str, str]:
        """For programs."""
        told = {"topic": self.topic, "state": str(self.state), "text": self.text}
        return {**told, "advice": self.advice} if self.advice else told


@dataclass(frozen=True)
class Examination:
    """All that was found, by section."""

    sections: Mapping[str, tuple[Finding, ...]]

    @property
    def findings(self) -> Iterable[Finding]:
        """Of all sections."""
        return [finding for found in self.sections.values() for finding in found]

    @property
    def wrong(self) -> int:
        """How many things keep the job, or every job, from running here."""
        return sum(finding.state is State.WRONG for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """2 where something is wrong, else 0."""
        return 2 if self.wrong else 0

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        sections = {title: [finding.to_json() for finding in found] for title, found in self.sections.items()}
        return {"exit_code": self.exit_code, "wrong": self.wrong, "sections": sections}
