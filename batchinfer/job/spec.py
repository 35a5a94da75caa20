"""The job as pydantic models: frozen, and an unknown key is an error. The names are a contract with the users' files.

Local paths in a `JobSpec` are absolute: the loader resolves them against the job file's folder.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from batchinfer.job.cascades import with_conditions
from batchinfer.job.report import Report
from batchinfer.job.scalar import Scalar
from batchinfer.job.secrets import Secrets
from batchinfer.job.steps import AnyStep, Batching, Step
from batchinfer.job.values import AutoCount, Bytes, Duration, Model, Money, Share, Switch, Text, Texts, Threshold
from batchinfer.job.written import Written


def _version(value: object) -> object:
    # Literal[1] alone would take true for 1.
    if isinstance(value, bool) or value != 1:
        raise ValueError("this batchinfer reads version 1: write version: 1")
    return value


class Input(Model):
    """Which rows are read."""

    path: Annotated[Text | Texts, Field(description="a Parquet file, a directory, a glob, or a list of them")]
    columns: Annotated[Texts | None, Field(description="default: what the steps and the output need")] = None
    where: Annotated[
        str | None, Field(description="SQL condition; rows for which it is false or null are filtered", repr=False)
    ] = None
    key: Annotated[Text | None, Field(description="column that names a row in dead letters")] = None
    limit: Annotated[
        Annotated[int, Field(strict=True, ge=0)] | None,
        Field(description="the first N rows in input order, before where"),
    ] = None


class Resources(Model):
    """What each worker gets, and where workers run."""

    executor: Annotated[Literal["auto", "inline", "ray"], Field(description="inline: in this process")] = "auto"
    workers: AutoCount = "auto"
    cpus: Annotated[AutoCount, Field(description="of each worker")] = "auto"
    gpus: Annotated[
        Literal["auto"] | Share,
        Field(description="of each worker"),
    ] = "auto"
    address: Annotated[
        Text | None, Field(description="of a running Ray cluster; auto finds the one on this machine")
    ] = None
    price_per_hour: Annotated[
        Money | None,
        Field(
            description="of a device, in any one currency: of a GPU with what comes with it, or, where the run has none, of a worker. "
            "The reports then say what the run cost (cost, job_cost); devices, device_seconds and job_device_seconds they always say"
        ),
    ] = None

    @model_validator(mode="after")
    def _inline_is_one_worker(self) -> Resources:
        if self.executor == "inline" and isinstance(self.workers, int) and self.workers > 1:
            raise ValueError("inline runs one worker: set workers to 1, or executor to ray")
        return self


class Retry(Model):
    """What is tried again."""

    max_retries: Annotated[int, Field(strict=True, ge=0, description="replacements of a worker for one shard")] = 3
    timeout: Annotated[
        Duration | None, Field(description="one model call; default: a bound from the measured pace")
    ] = None


class Errors(Model):
    """How many dead rows a job may have, and what happens then."""

    threshold: Annotated[Threshold, Field(description='rows, "0.1%" of the planned rows, or -1 for any number')] = 0
    on_exceed: Literal["finish", "abort"] = "finish"
    on_invalid_output: Annotated[
        Literal["dead", "keep", "fail"], Field(description="NaN, infinite, or of another type than pinned")
    ] = "dead"
    circuit_breaker: Annotated[Switch, Field(description="stop when every row fails with one error type")] = True


class Checkpoint(Model):
    """How often finished batches are made durable."""

    interval: Duration = 5.0


class Output(Model):
    """Where results go and what goes with them."""

    path: Annotated[Text, Field(description="a directory or a URL prefix of its own")]
    carry: Annotated[
        Literal["none", "key", "all"] | Texts | None,
        Field(description="input columns to carry through; default: key when there is a key, else all"),
    ] = None
    columns: Annotated[
        Texts | None, Field(description="computed columns that are written; default: those that no step reads")
    ] = None
    step_used: Annotated[
        Text | None, Field(description="a column for the names of the steps that took the row, of those with a `when`")
    ] = None
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = "zstd"
    mode: Annotated[
        Literal["error", "overwrite"], Field(description="when the path holds another batchinfer job's output")
    ] = "error"


class Cache(Model):
    """What is not computed twice."""

    path: Annotated[
        Text | None, Field(description="a directory or URL prefix where predictions are kept for other runs and jobs")
    ] = None
    max_bytes: Annotated[Bytes, Field(description="of all that is kept there; what was used least recently goes")] = (
        10 * 1000**3
    )
    data: Annotated[
        Bytes | None,
        Field(
            description="of remote input files, and texts and images made ready, that each machine keeps for other jobs, under "
            "$BATCHINFER_CACHE; default: none"
        ),
    ] = None
    deduplicate: Annotated[
        Literal["auto"] | Switch,
        Field(description="predict rows of equal content once; auto: where that is measured to pay"),
    ] = "auto"


class RunOptions(Model):
    """Bounds of one run."""

    max_runtime: Annotated[
        Duration | None,
        Field(description="stop then, measuring and loading of models included; the same command resumes"),
    ] = None
    max_cost: Annotated[
        Money | None,
        Field(
            description="in the currency of resources.price_per_hour: stop when the job's runs together have spent it; resumes with a "
            "larger one"
        ),
    ] = None
    inputs_changed: Annotated[
        Literal["error", "extend"],
        Field(
            description="since the job was planned; extend: predict the files that are new or rewritten, and only these"
        ),
    ] = "error"
    on_removed: Annotated[
        Literal["error", "keep", "drop"],
        Field(description="where inputs_changed is extend: what becomes of the rows of files that are gone"),
    ] = "error"
    single_writer: Annotated[
        Switch,
        Field(description="run on a store without conditional creates: you see to it that no second run writes there"),
    ] = False


class JobSpec(Model):
    """What the user asked for, validated. See the README for each key."""

    version: Annotated[
        Literal[1],
        BeforeValidator(_version, json_schema_input_type=Literal[1]),
        Field(description="of the job file's format"),
    ]
    name: Annotated[str, Field(min_length=1, max_length=200, description="the job's name, at most 200 characters")]
    params: Annotated[
        dict[str, Scalar], Field(description="filled into ${params.name}; null: must be given with --param", repr=False)
    ] = Field(default_factory=dict)
    code: Annotated[tuple[Text, ...], Field(description="folders where module:Class may be imported from")] = ()
    input: Input
    steps: Annotated[tuple[AnyStep, ...], Field(min_length=1)]
    batching: Batching = Batching()
    resources: Resources = Resources()
    retry: Retry = Retry()
    errors: Errors = Errors()
    checkpoint: Checkpoint = Checkpoint()
    output: Output
    run: RunOptions = RunOptions()
    cache: Cache = Cache()
    report: Report = Report()
    metadata: Annotated[dict[str, Scalar], Field(description="written to the reports as it is", repr=False)] = Field(
        default_factory=dict
    )
    storage: Annotated[dict[str, dict[str, Any]], Field(description="fsspec options by URL prefix", repr=False)] = (
        Field(default_factory=dict)
    )
    _written: Written | None = PrivateAttr(default=None)

    @property
    def written(self) -> Written | None:
        """The job as it was written, where the loader made it."""
        return self._written

    @property
    def models(self) -> tuple[Step, ...]:
        """The steps that are models."""
        return tuple(step for step in self.steps if isinstance(step, Step))

    @property
    def secrets(self) -> Secrets:
        """What no message may repeat."""
        return Secrets() if self._written is None else self._written.secrets

    def as_written(self, written: Written) -> JobSpec:
        """The same job, which came from there."""
        spec = self.model_copy()
        spec._written = written
        return spec

    @model_validator(mode="before")
    @classmethod
    def _model_is_short_for_one_step(cls, data: Any) -> Any:
        if isinstance(data, dict) and "model" in data:
            if "steps" in data:
                raise ValueError("give model or steps, not both")
            data = {**data, "steps": [data["model"]]}
            del data["model"]
        return data

    @model_validator(mode="after")
    def _cascades_have_their_columns(self) -> JobSpec:
        # Frozen, and validated: the condition that a cascade stands for is that of any other step from here on.
        object.__setattr__(self, "steps", with_conditions(self.steps))
        return self

    @property
    def carry(self) -> Literal["none", "key", "all"] | tuple[str, ...]:
        """`output.carry` with its default applied."""
        if self.output.carry is not None:
            return self.output.carry
        return "key" if self.input.key is not None else "all"
