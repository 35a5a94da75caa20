"""The job as pydantic models: frozen, and an unknown key is an error. The names are a contract with the users' files.

Local paths in a `JobSpec` are absolute: the loader resolves them against the job file's folder.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from batchinfer.job.scalar import Scalar
from batchinfer.job.secrets import Secrets
from batchinfer.job.values import AutoCount, Count, Duration, Share, Switch, Text, Texts, Threshold
from batchinfer.job.written import Written

Precision = Literal[
    "auto",
    "fp32",
    "tf32",
    "bf16",
    "fp16",
    "int8",
    "int8-weight",
    "int4-weight",
    "fp8",
    "fp32-compiled",
    "bf16-compiled",
]
EngineName = Literal["python", "torch", "transformers", "onnx", "openvino"]
Task = Literal["embedding", "text-classification", "token-classification"]


class Model(BaseModel):
    """What every part of a job file has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


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


class OutputColumn(Model):
    """One output of a model: the new column's name and, if wanted, its type."""

    column: Annotated[Text, Field(description="the new column")]
    type: Annotated[
        Text | None,
        Field(description="Arrow type such as float32, string or fixed_size_list<float32>[384]; default: first seen"),
    ] = None


def _output_column(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


class Batching(Model):
    """How many rows and tokens go into a batch, rows into a window, rows into a shard."""

    rows: Annotated[AutoCount, Field(description="rows a batch, at most")] = "auto"
    tokens: Annotated[AutoCount, Field(description="tokens a batch, padding included, at most")] = "auto"
    window: Annotated[AutoCount, Field(description="rows that are sorted by length together")] = "auto"
    shard: Annotated[AutoCount, Field(description="rows that become one output file")] = "auto"


class Gate(Model):
    """How a precision below 16 bits must agree with full precision before the job runs at it; of one above it is reported."""

    sample: Annotated[int, Field(strict=True, ge=32, description="rows of the job that are compared, at least 32")] = (
        512
    )
    metric: Annotated[
        Literal["auto", "cosine", "agreement", "relative_error"],
        Field(description="auto: by the outputs, vectors, labels or numbers"),
    ] = "auto"
    min: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Field(
            description="least mean cosine, agreement, or 1 - mean relative error; default: 0.995, 0.97, 0.99 in this order"
        ),
    ] = None
    label: Annotated[Text | None, Field(description="column with the truth: the metric may drop by 1 point")] = None
    on_fail: Annotated[
        Literal["refuse", "fallback"],
        Field(description="of a precision that is asked for; fallback: the next one that passes"),
    ] = "refuse"


def _least_and_most(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] > value[1]:
        raise ValueError("write the smaller number first: [1, 4]")
    return value


class Step(Model):
    """One model of the pipeline."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", description="letters, digits, _ and -")] = "model"
    engine: Annotated[EngineName, Field(description="the kind of model")]
    uri: Annotated[Text, Field(description="hf:org/name@revision, package:name/path, a path or URL, or module:Class")]
    task: Annotated[
        Task | None,
        Field(description="what a transformers model does; onnx and openvino on texts too; other engines have none"),
    ] = None
    inputs: Annotated[
        dict[str, Text | Texts],
        Field(
            min_length=1, description="the model's name: the column, or a list of numeric columns that form a matrix"
        ),
    ]
    outputs: Annotated[
        dict[
            str,
            Annotated[OutputColumn, BeforeValidator(_output_column, json_schema_input_type=Text | OutputColumn)],
        ],
        Field(min_length=1, description="the model's name: the new column, or {column, type}"),
    ]
    input_format: Annotated[
        Literal["dict", "arrow", "polars"], Field(description="what a class of the python engine is called with")
    ] = "dict"
    precision: Annotated[Precision, Field(description="auto: the fastest that was timed and agrees with fp32")] = "auto"
    gate: Annotated[
        Literal["off"] | Gate, Field(description="the comparison with full precision; off: no precision is compared")
    ] = Gate()
    options: Annotated[dict[str, Any], Field(description="the engine's own", repr=False)] = {}
    workers: Annotated[
        Count | Annotated[tuple[Count, Count], AfterValidator(_least_and_most)] | None,
        Field(description="model actors of the step's own pool, or [least, most] of them"),
    ] = None
    cpus: Annotated[Count | None, Field(description="of each model actor")] = None
    gpus: Annotated[Share | None, Field(description="of each model actor")] = None

    @property
    def has_pool(self) -> bool:
        """Whether the model runs in actors of its own, apart from the workers that prepare for it."""
        return not (self.workers is None and self.cpus is None and self.gpus is None)


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
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = "zstd"
    mode: Annotated[
        Literal["error", "overwrite"], Field(description="when the path holds another batchinfer job's output")
    ] = "error"


class RunOptions(Model):
    """Bounds of one run."""

    max_runtime: Annotated[Duration | None, Field(description="stop then; the same command resumes")] = None
    inputs_changed: Annotated[Literal["error"], Field(description="since the job was planned")] = "error"
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
    ] = {}
    code: Annotated[tuple[Text, ...], Field(description="folders where module:Class may be imported from")] = ()
    input: Input
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    batching: Batching = Batching()
    resources: Resources = Resources()
    retry: Retry = Retry()
    errors: Errors = Errors()
    checkpoint: Checkpoint = Checkpoint()
    output: Output
    run: RunOptions = RunOptions()
    metadata: Annotated[dict[str, Scalar], Field(description="written to the reports as it is", repr=False)] = {}
    storage: Annotated[dict[str, dict[str, Any]], Field(description="fsspec options by URL prefix", repr=False)] = {}
    _written: Written | None = PrivateAttr(default=None)

    @property
    def written(self) -> Written | None:
        """The job as it was written, where the loader made it."""
        return self._written

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

    @property
    def carry(self) -> Literal["none", "key", "all"] | tuple[str, ...]:
        """`output.carry` with its default applied."""
        if self.output.carry is not None:
            return self.output.carry
        return "key" if self.input.key is not None else "all"
