"""What goes into a worker and what comes out, as values that travel between processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

import pyarrow as pa

from batchinfer.job.spec import JobSpec
from batchinfer.ledger.parts import Part
from batchinfer.plan.plan import Reading
from batchinfer.storage.paths import JobPaths


@dataclass(frozen=True)
class Share:
    """What a process has of its machine."""

    threads: int
    """CPU threads."""
    gpus: float | None
    """Of GPUs; None: whatever device there is."""


@dataclass(frozen=True)
class Context:
    """What a worker needs to know of the job; the same for all shards."""

    spec: JobSpec
    reading: Reading
    job: JobPaths
    threads: int
    """CPU threads for the model and for decoding."""
    breaker: bool = False
    """Whether the circuit breaker watches: not where rows of the job have succeeded before."""
    gpus: float | None = None
    """Share of GPUs that the worker has; None: whatever device there is."""
    single_writer: bool = False
    """Whether the output has no conditional creates, and nobody else is assumed to write there."""
    outputs: pa.Schema | None = None
    """Output columns with the types that earlier generations pinned, which a measurement keeps; None where there are none."""
    workers: int = 1
    """Among which the rows are shared, as far as that is known before they start."""
    models: Mapping[str, str] = field(default_factory=dict)
    """By step, the digest of what says which model it is: its files, code, options and library versions. Of one that isn't there nothing
    is remembered."""
    fingerprint: str = ""
    """Of the generation; empty for none."""
    rows: str = ""
    """Digest of what says which rows the job has."""
    shares: Mapping[str, Share] = field(default_factory=dict)
    """By step, what the process has that its model runs in, where that isn't each worker."""

    def share(self, step: str) -> Share:
        """What the process has that the model of a step runs in."""
        return self.shares.get(step) or Share(self.threads, self.gpus)


class Failure(StrEnum):
    """Why a shard has no part; decides what the runner does next."""

    INPUT = "input"
    """A file of this shard can't be read, or has changed; other shards are not concerned."""
    REFUSED = "refused"
    """It would fail again, and so would others: a model that breaks its contract, no permission."""
    TRANSIENT = "transient"
    """Storage or cluster: running again resumes."""
    STOPPED = "stopped"
    """The worker was asked to stop; what was finished is in chunks."""
    DIED = "died"
    """The worker's process is gone, and this shard was all that it had in hand."""
    LOST = "lost"
    """The worker's process is gone; it had other shards in hand too, so that this one may be innocent."""
    HUNG = "hung"
    """A call of the model took too long; the worker was replaced."""
    POISONED = "poisoned"
    """The device's context is broken; the worker must be replaced."""
    UNEXPECTED = "unexpected"
    """Anything else."""


@dataclass(frozen=True)
class Seconds:
    """Where a shard's time went; stages overlap, so these don't add up to the wall clock."""

    read: float = 0.0
    prepare: float = 0.0
    wait: float = 0.0
    """The device without work: no batch was prepared, preparing had the CPU's cores, or writing was behind. With model actors of the
    step's own: the preparing worker, for one of them to take a batch.
    """
    infer: float = 0.0
    """The model's own, wherever it runs."""
    write: float = 0.0
    """Finishing outputs, checking them, and encoding the part."""
    commit: float = 0.0
    """Checkpoints and the part's creation."""

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))


@dataclass(frozen=True)
class StepUsage:
    """What a step of a shard cost."""

    rows: int = 0
    """Rows that it saw, isolation counted again."""
    batches: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    """Tokens with padding, as the model saw them."""
    halved: int = 0
    """Batches that did not fit into memory, and were cut in two."""
    skipped: int = 0
    """Rows that it failed on and that went on without it (`errors.on_failure: skip`)."""
    reused: int = 0
    """Rows that it didn't see, since the answer to their content was there already."""
    infer: float = 0.0
    """Seconds of its calls."""
    batch_rows: Counter[int] = field(default_factory=Counter)
    """Batches by their rows, rounded up to a power of two."""

    def __add__(self, other: StepUsage) -> StepUsage:
        return StepUsage(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        sizes = {str(rows): batches for rows, batches in sorted(self.batch_rows.items())}
        return {**{f: getattr(self, f) for f in self.__dataclass_fields__}, "batch_rows": sizes}


@dataclass(frozen=True)
class Usage:
    """What a shard cost; rows taken from checkpoints cost nothing."""

    seconds: Seconds = field(default_factory=Seconds)
    steps: Mapping[str, StepUsage] = field(default_factory=dict)
    """By the step's name, in running order."""

    def __add__(self, other: Usage) -> Usage:
        names = dict.fromkeys([*self.steps, *other.steps])
        nothing = StepUsage()
        steps = {name: self.steps.get(name, nothing) + other.steps.get(name, nothing) for name in names}
        return Usage(self.seconds + other.seconds, steps)

    @property
    def rows(self) -> int:
        """Rows that came to the steps, isolation counted again: those of the step that saw the most."""
        return max((step.rows for step in self.steps.values()), default=0)

    @property
    def total(self) -> StepUsage:
        """Of all steps together."""
        return sum(self.steps.values(), StepUsage())

    def to_json(self) -> dict[str, Any]:
        """For the report: the seconds by stage, and by step the others."""
        steps = {name: step.to_json() for name, step in self.steps.items()}
        return {"rows": self.rows, "seconds": asdict(self.seconds), "steps": steps}


@dataclass(frozen=True)
class Done:
    """The shard is decided."""

    shard: int
    part: Part
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Failed:
    """The shard has no part yet."""

    shard: int
    failure: Failure
    error: str
    """Type and message, for people."""
    traceback: str = ""
    exit_code: int = 1


Outcome = Done | Failed


@dataclass(frozen=True)
class Served:
    """What a model actor did with the batches that others sent it, in seconds since it was ready."""

    batches: int = 0
    busy: float = 0.0
    """In calls of the model."""
    idle: float = 0.0
    """Waiting for a batch."""
    waited: float = 0.0
    """That batches waited for their turn, each counted by itself."""
    actors: int = 0
    """Of a pool: how many model actors it has now."""

    def __add__(self, other: Served) -> Served:
        return Served(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))


@dataclass(frozen=True)
class Progress:
    """What a worker is doing now, for people."""

    worker: int
    shard: int | None = None
    rows: int = 0
    """Rows finished by this worker since it started, in shards that are done and the one in hand."""
    dead: int = 0
    in_hand: int = 0
    """Of the rows, those of the shard that isn't decided yet."""
    note: str = ""
    """loading, measuring, running, idle."""
    step: str = ""
    """The step of the batch that the device had last."""
    seconds: Seconds = field(default_factory=Seconds)
    """Where the worker's time went since it started."""
    memory: int = 0
    """The most bytes of the machine's memory that its process took; 0 where that can't be told."""
    device_memory: int = 0
    """The most bytes of a GPU's memory that torch took in it."""
    overdue: str | None = None
    """That a call in hand takes too long, in words; None where none does."""
    patience: float = 60.0
    """Seconds of silence after which the worker is taken for hung."""
    broken: str = ""
    """What broke the device of a model actor; empty while it is sound."""
    served: Served = field(default_factory=Served)
    """Of a model actor."""


@dataclass(frozen=True)
class RowError:
    """Why a row could not be predicted."""

    error_class: str
    """`exception`, `invalid_output`, `out_of_memory`, `process_death`, `timeout` or `device_error`."""
    error_type: str
    """Name of the exception's type, or what is wrong with the output."""
    message: str
    attempts: int
    """How often the row failed alone; a row of an invalid output has one."""
    retryable: bool = False
    """Whether the row may be predicted with nothing changed, such as on a machine with more memory."""
    exit_signal: str | None = None
    """What ended the process: a signal such as SIGSEGV, or an exit code such as `exit 7`."""

    def after(self, attempts: int) -> RowError:
        """The same error after so many attempts."""
        return replace(self, attempts=attempts)

    def to_json(self) -> Mapping[str, object]:
        """The value of a chunk's `_dead` column."""
        return {
            "error_class": self.error_class,
            "error_type": self.error_type,
            "message": self.message,
            "attempts": self.attempts,
            "retryable": self.retryable,
            "exit_signal": self.exit_signal,
        }
