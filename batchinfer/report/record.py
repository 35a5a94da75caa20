"""`run_results.json` as models: what is written, what the page of the report is drawn from, and the published schema.

Every fact has a default: a run that goes on, or one of an earlier version, has written fewer.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_ID = "https://batchinfer.dev/schema/run_results.v1.json"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Rows(_Model):
    """Rows by what became of them: planned is the sum of the others."""

    planned: int = 0
    succeeded: int = 0
    dead: int = 0
    filtered: int = 0
    not_attempted: int = 0


class StageSeconds(_Model):
    """Seconds by stage, added up over workers. Stages overlap, so that they aren't the wall clock's."""

    read: float = 0.0
    prepare: float = 0.0
    wait: float = Field(default=0.0, description="the device without work")
    infer: float = Field(default=0.0, description="calls of the model")
    write: float = 0.0
    commit: float = Field(default=0.0, description="checkpoints and the creation of parts")


class StepFigures(_Model):
    """What a step did in this run."""

    rows: int = 0
    batches: int = 0
    tokens: int = 0
    padded_tokens: int = Field(default=0, description="tokens with padding, as the model saw them")
    halved: int = Field(default=0, description="batches that did not fit into memory, and were cut in two")
    skipped: int = Field(default=0, description="rows that it failed on and that went on without it")
    reused: int = Field(default=0, description="rows that had the answer to another row of the same content")
    infer: float = Field(default=0.0, description="seconds of its calls")
    batch_rows: dict[str, int] = Field(default={}, description="batches by their rows, rounded up to a power of two")


class Usage(_Model):
    """What this run cost; work of earlier runs of the job isn't in it."""

    rows: int = 0
    seconds: StageSeconds = StageSeconds()
    steps: dict[str, StepFigures] = {}


class Pool(_Model):
    """What the model actors of a step with a pool of its own did."""

    batches: int = 0
    busy: float = Field(default=0.0, description="seconds in calls of the model")
    idle: float = Field(default=0.0, description="seconds without a batch")
    waited: float = Field(default=0.0, description="seconds that batches waited for their turn")
    actors: int = Field(default=0, description="how many there were at the end")


class Segment(_Model):
    """A stretch of a worker's time, in seconds since the run began."""

    begin: float
    end: float
    state: str = Field(description="running, idle, loading, restarting, …")
    shard: int | None = Field(default=None, description="the first of its shards")
    shards: int = Field(default=0, description="shards that it was seen with")


class Worker(_Model):
    """One worker, or a model actor of a pool."""

    worker: int
    rows: int = 0
    dead: int = 0
    seconds: StageSeconds = StageSeconds()
    memory: int = Field(default=0, description="the most bytes that its process took; 0 where that isn't known")
    device_memory: int = Field(default=0, description="the most bytes of a GPU's memory that torch took in it")
    segments: list[Segment] = []


class Example(_Model):
    """A dead row, by its place alone: its values are in the dead letters."""

    file: str
    row: int


class ErrorGroup(_Model):
    """Dead rows of one cause."""

    error_class: str
    error_type: str
    message: str = Field(description="without the row's values and without secrets")
    rows: int
    examples: list[Example] = []


class DeadLetters(_Model):
    """The dead rows of the job by what went wrong, the most frequent first."""

    rows: int = 0
    looked_at: int = Field(default=0, description="of these, those that were grouped")
    kinds: int = Field(default=0, description="different errors among them; the most frequent are listed")
    groups: list[ErrorGroup] = []


class Predictions(_Model):
    """How the computed columns are distributed; each profile as `batchinfer drift --save` writes it."""

    now: dict[str, Any] | None = None
    before: dict[str, Any] | None = Field(default=None, description="of the output's previous job, or of the reference")
    before_name: str = Field(default="", description="what `before` is of")


class Advice(_Model):
    """A finding, drawn from the numbers, and what to do."""

    topic: str
    text: str


class RunRecord(_Model):
    """What the last run of a job did."""

    state: Literal["RUNNING", "SUCCEEDED", "PARTIAL", "FAILED", "INTERRUPTED", "CANCELLED"]
    exit_code: int | None = Field(default=None, description="None while the run goes on")
    rows: Rows = Field(default=Rows(), description="of the job, over all its runs")
    truncated: int = Field(default=0, description="rows of which the model saw only the beginning")
    job: str = Field(default="", description="eight hexadecimal digits that name the job on its output")
    output: str = ""
    settings: dict[str, Any] | None = Field(
        default=None, description="the pinned choices with their measurements and gates"
    )
    executor: str = ""
    workers: int = 0
    usage: Usage = Usage()
    pools: dict[str, Pool] = Field(default={}, description="by step with model actors of its own")
    changes: str = Field(default="", description="what an extension found changed in the input")
    seconds: float = 0.0
    devices: float = Field(
        default=0.0,
        description="the most that the run held at a time: GPUs, or, where it was given none, workers and model actors",
    )
    device_seconds: float = Field(default=0.0, description="of this run, from when workers were asked for to their end")
    job_device_seconds: float = Field(
        default=0.0, description="of all runs of the job; of one that was killed up to its last heartbeat"
    )
    cost: float | None = Field(
        default=None, description="of this run, in the currency of resources.price_per_hour; null where none is given"
    )
    job_cost: float | None = Field(default=None, description="of all runs of the job, at today's price")
    errors: list[str] = Field(default=[], description="what went wrong; empty when nothing did")

    name: str = ""
    epoch: int = Field(default=0, description="number of the runner among those of the job")
    began: str = Field(default="", description="when, in UTC (ISO 8601)")
    ended: str = ""
    versions: dict[str, str] = {}
    plan: dict[str, Any] = Field(default={}, description="what was to be done, as `batchinfer plan --json` has it")
    models: dict[str, str] = Field(default={}, description="by step, the digest of its model's files, code and options")
    settled: float = Field(default=0.0, description="seconds until the workers were loaded")
    decided_before: int = Field(default=0, description="rows that earlier runs had finished")
    throughput: list[tuple[float, int]] = Field(
        default=[], description="seconds since the run began, and rows finished by then"
    )
    crew: list[Worker] = Field(default=[], description="the workers")
    dead_letters: DeadLetters = DeadLetters()
    predictions: Predictions = Predictions()
    advice: list[Advice] = []


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `run_results.json`."""
    schema = RunRecord.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema,
        "title": "run_results.json of batchinfer",
    }
