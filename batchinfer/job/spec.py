"""The job as pydantic models: frozen, and an unknown key is an error. The names are a contract with the users' files.

Local paths in a `JobSpec` are absolute: the loader resolves them against the job file's folder.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Precision = Literal["auto", "fp32", "bf16"]
EngineName = Literal["python", "torch", "transformers"]
Count = Annotated[int, Field(strict=True, ge=1)]
AutoCount = Literal["auto"] | Count


class Model(BaseModel):
    """What every part of a job file has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: object) -> object:
    """`5s`, `200ms`, `1.5h`, or a bare number of seconds."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value)
        if match is None:
            raise ValueError("write a duration such as 5s, 200ms, 10m or 6h")
        return float(match[1]) * _UNITS[match[2]]
    return value


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]


def _threshold(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("write a number of rows, a share of the planned rows such as 0.1%, or -1 for any number")
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)
        if match is None or float(match[1]) > 100:
            raise ValueError("write a number of rows, a share of the planned rows such as 0.1%, or -1 for any number")
        return f"{float(match[1]):g}%"
    return value


Threshold = Annotated[Annotated[int, Field(strict=True, ge=-1)] | str, BeforeValidator(_threshold)]


class Input(Model):
    """Which rows are read."""

    path: Annotated[str | tuple[str, ...], Field(description="a Parquet file, a directory, a glob, or a list of them")]
    columns: Annotated[tuple[str, ...] | None, Field(description="default: what the steps and the output need")] = None
    where: Annotated[str | None, Field(description="SQL condition; rows for which it is false or null are filtered")] = None
    key: Annotated[str | None, Field(description="column that names a row in dead letters")] = None
    limit: Annotated[Annotated[int, Field(strict=True, ge=0)] | None, Field(description="the first N rows in input order, before where")] = None


class OutputColumn(Model):
    """One output of a model: the new column's name and, if wanted, its type."""

    column: Annotated[str, Field(min_length=1)]
    type: Annotated[str | None, Field(description="Arrow type such as float32, string, list<float32>, fixed_size_list<float32>[384]; default: first seen")] = None


def _output_column(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


class Batching(Model):
    """How many rows and tokens go into a batch, rows into a window, rows into a shard."""

    rows: AutoCount = "auto"
    tokens: AutoCount = "auto"
    window: AutoCount = "auto"
    shard: AutoCount = "auto"


class Step(Model):
    """One model of the pipeline."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")] = "model"
    engine: EngineName
    uri: Annotated[str, Field(min_length=1, description="hf:org/name@revision, package:name/path, a path or URL, or module:Class")]
    task: Annotated[str | None, Field(description="transformers: embedding, text-classification or token-classification")] = None
    inputs: Annotated[
        dict[str, str | tuple[str, ...]],
        Field(min_length=1, description="the model's name: the column, or a list of numeric columns that form a matrix"),
    ]
    outputs: Annotated[
        dict[str, Annotated[OutputColumn, BeforeValidator(_output_column)]],
        Field(min_length=1, description="the model's name: the new column, or {column, type}"),
    ]
    input_format: Literal["dict", "arrow", "polars"] = "dict"
    precision: Precision = "auto"
    options: Annotated[dict[str, Any], Field(description="the engine's own")] = {}


class Resources(Model):
    """What each worker gets, and where workers run."""

    executor: Literal["auto", "inline", "ray"] = "auto"
    workers: AutoCount = "auto"
    cpus: AutoCount = "auto"
    gpus: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    address: Annotated[str | None, Field(description="of a running Ray cluster; auto finds the one on this machine")] = None

    @model_validator(mode="after")
    def _inline_is_one_worker(self) -> Resources:
        if self.executor == "inline" and isinstance(self.workers, int) and self.workers > 1:
            raise ValueError("inline runs one worker: set workers to 1, or executor to ray")
        return self


class Retry(Model):
    """What is tried again."""

    max_retries: Annotated[int, Field(strict=True, ge=0, description="replacements of a worker for one shard")] = 3
    timeout: Annotated[Duration | None, Field(description="one model call; default: from the measured pace")] = None


class Errors(Model):
    """How many dead rows a job may have, and what happens then."""

    threshold: Annotated[Threshold, Field(description='rows, "0.1%" of the planned rows, or -1 for any number')] = 0
    on_exceed: Literal["finish", "abort"] = "finish"
    on_invalid_output: Annotated[Literal["dead", "keep", "fail"], Field(description="NaN, infinite, or of another type than pinned")] = "dead"
    circuit_breaker: bool = True


class Checkpoint(Model):
    """How often finished batches are made durable."""

    interval: Duration = 5.0


class Output(Model):
    """Where results go and what goes with them."""

    path: Annotated[str, Field(min_length=1)]
    carry: Annotated[
        Literal["none", "key", "all"] | tuple[str, ...] | None,
        Field(description="input columns to carry through; default: key when there is a key, else all"),
    ] = None
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = "zstd"
    mode: Annotated[Literal["error", "overwrite"], Field(description="when the path holds another batchinfer job's output")] = "error"


class RunOptions(Model):
    """Bounds of one run."""

    max_runtime: Duration | None = None
    inputs_changed: Literal["error"] = "error"


class JobSpec(Model):
    """What the user asked for, validated. See the README for each key."""

    version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    params: dict[str, str | int | float | bool | None] = {}
    code: tuple[str, ...] = ()
    input: Input
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    batching: Batching = Batching()
    resources: Resources = Resources()
    retry: Retry = Retry()
    errors: Errors = Errors()
    checkpoint: Checkpoint = Checkpoint()
    output: Output
    run: RunOptions = RunOptions()
    metadata: dict[str, str | int | float | bool | None] = {}
    storage: Annotated[dict[str, dict[str, Any]], Field(description="fsspec options by URL prefix", repr=False)] = {}

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
