"""What a run tells whoever listens: the terminal, a notebook, the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from batchinfer.ledger.parts import Counts
from batchinfer.ledger.spending import Spent
from batchinfer.measure.settings import Settings
from batchinfer.plan.plan import Plan
from batchinfer.storage.paths import JobPaths
from batchinfer.worker.context import Failed, Progress, Served, Usage


class State(StrEnum):
    """How far a job is, in `run_results.json` and everywhere else."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class Started:
    """The run has the job to itself; `decided` of the plan's shards were finished by earlier runs."""

    plan: Plan
    """With the rows and shards of the generation that is run."""
    job: JobPaths
    epoch: int
    """Number of this runner."""
    rows: Counts
    """Of the job, as the generation before left them; its own count as not attempted here."""
    executor: str
    decided: int
    decided_rows: int


@dataclass(frozen=True)
class Settled:
    """The settings stand and the workers are loaded."""

    settings: Settings
    workers: int


@dataclass(frozen=True)
class Ticked:
    """A sign of life, several times a second."""

    progress: list[Progress]
    decided: int
    """Shards that are decided, by this run and by those before."""
    decided_rows: int
    """Planned rows of these."""


@dataclass(frozen=True)
class Retried:
    """A worker died, hung, or broke its device; its shard is tried again."""

    failed: Failed
    deaths: int
    quarantined: bool = False
    """Whether its model runs in a child process from now on."""


@dataclass(frozen=True)
class GivenUp:
    """A shard stays without a part."""

    failed: Failed


@dataclass(frozen=True)
class Broken:
    """An exception ends the run; it is raised after this, the last event."""

    rows: Counts
    """Of the job, by what became of them so far."""
    spent: Spent
    """Up to then."""


@dataclass(frozen=True)
class Finished:
    """The end; the last event of a run that no exception ends."""

    result: RunResult


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    state: State
    exit_code: int
    rows: Counts
    job: JobPaths
    output: str
    settings: Settings | None = None
    usage: Usage = field(default_factory=Usage)
    """Of this run alone; work of earlier runs isn't in it."""
    seconds: float = 0.0
    executor: str = ""
    workers: int = 0
    changes: str = ""
    """What an extension found changed in the input, in words; empty for none."""
    served: Mapping[str, Served] = field(default_factory=dict)
    """By step with a pool of its own, what its model actors did."""
    spent: Spent = field(default_factory=Spent)
    errors: tuple[str, ...] = ()
    """What went wrong, for people; empty when nothing did."""

    def to_json(self) -> dict[str, Any]:
        """The content of `run_results.json`."""
        return {
            "state": str(self.state),
            "exit_code": self.exit_code,
            "rows": rows_to_json(self.rows),
            "truncated": self.rows.truncated,
            "job": self.job.job8,
            "output": self.output,
            "settings": self.settings.to_json() if self.settings else None,
            "executor": self.executor,
            "workers": self.workers,
            "usage": self.usage.to_json(),
            **({"pools": {name: asdict(served) for name, served in self.served.items()}} if self.served else {}),
            **({"changes": self.changes} if self.changes else {}),
            "seconds": round(self.seconds, 3),
            **self.spent.to_json(),
            "errors": list(self.errors),
        }


def rows_to_json(rows: Counts) -> dict[str, int]:
    """The accounting, in its order."""
    return {k: getattr(rows, k) for k in ("planned", "succeeded", "dead", "filtered", "not_attempted")}


Event = Started | Settled | Ticked | Retried | GivenUp | Broken | Finished
Listener = Callable[[Event], None]
