"""What was measured or first seen, pinned once for a job, so that a later run builds the same batches and types."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from batchinfer.pipeline.batching import Budget


@dataclass(frozen=True)
class StepSettings:
    """The pinned choices of one step."""

    precision: str
    """Empty for a step without a model."""
    budget: Budget
    threads: int
    """CPU threads of one call of the model."""
    outputs: pa.Schema
    """The columns that it computes with their types, in the step's order."""
    streams: int = 1
    """Calls of the model that a worker makes at a time; together they have `threads` times as many threads."""
    measured: dict[str, Any] = field(default_factory=dict, compare=False)
    """The figures behind the choices, for the report."""
    deduplicate: bool = False
    """Whether rows of equal content are predicted once."""
    threshold: float | None = None
    """Of a cascade: rows that the smaller model is less sure of come to this step."""

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads; `output_types` is there for people."""
        return {
            "precision": self.precision,
            "batch_rows": self.budget.rows,
            "batch_tokens": self.budget.tokens,
            "threads": self.threads,
            "streams": self.streams,
            "deduplicate": self.deduplicate,
            "threshold": self.threshold,
            "output_types": {f.name: str(f.type) for f in self.outputs},
            "output_schema": schema_to_text(self.outputs),
            "measured": self.measured,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StepSettings:
        """The inverse of `to_json`."""
        return cls(
            precision=value["precision"],
            budget=Budget(value["batch_rows"], value["batch_tokens"]),
            threads=value["threads"],
            outputs=schema_from_text(value["output_schema"]),
            streams=value["streams"],
            deduplicate=value.get("deduplicate", False),
            threshold=value.get("threshold"),
            measured=value["measured"],
        )

    def within(self, threads: int) -> StepSettings:
        """The same where a worker has so many CPU threads, perhaps fewer than where they were measured: results depend on the threads of
        a call, and not on how many calls there are at a time.
        """
        return replace(self, streams=min(self.streams, max(1, threads // self.threads)))

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides about results, as a JSON value."""
        return {k: v for k, v in self.to_json().items() if k not in ("measured", "output_types", "streams")}


@dataclass(frozen=True)
class Settings:
    """The pinned choices of a job."""

    steps: Mapping[str, StepSettings]
    """By the step's name, in running order."""
    outputs: pa.Schema
    """The computed columns of the output, with their types."""
    memory: Mapping[str, Any] | None = field(default=None, compare=False)
    """What loading models took where they were measured, as `worker.memory.Needs` has it; None where it wasn't measured."""

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads."""
        return {
            "steps": [{"name": name, **step.to_json()} for name, step in self.steps.items()],
            "output_schema": schema_to_text(self.outputs),
            "memory": self.memory,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Settings:
        """The inverse of `to_json`."""
        steps = {step["name"]: StepSettings.from_json(step) for step in value["steps"]}
        return cls(steps, schema_from_text(value["output_schema"]), value["memory"])

    @property
    def models(self) -> dict[str, StepSettings]:
        """Those of the steps that are models."""
        return {name: step for name, step in self.steps.items() if step.precision}

    @property
    def thresholds(self) -> dict[str, float]:
        """Of the steps that have a cascade."""
        return {name: step.threshold for name, step in self.steps.items() if step.threshold is not None}

    def threads(self, steps: Iterable[str] | None = None) -> int:
        """CPU threads that a process with these steps (None: all) needs to have as many as was measured with."""
        names = self.steps if steps is None else steps
        return max((self.steps[name].threads * self.steps[name].streams for name in names), default=1)

    def within(self, threads: Callable[[str], int]) -> Settings:
        """The same where the steps' processes have so many CPU threads, by the step's name, see `StepSettings.within`."""
        return replace(self, steps={name: step.within(threads(name)) for name, step in self.steps.items()})

    @property
    def told_precision(self) -> dict[str, Any]:
        """By step the precision by `name` and the quality gate's verdict on it (`gate`), for the manifest."""
        gates = {name: step.measured.get("gate") for name, step in self.models.items()}
        return {
            name: {"name": step.precision, **({"gate": gates[name]} if gates[name] else {})}
            for name, step in self.models.items()
        }

    @property
    def digest(self) -> str:
        """SHA-256 over what decides about results (hexadecimal): chunks of other settings are not used."""
        parts = {name: step.deciding for name, step in self.steps.items()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def schema_to_text(schema: pa.Schema) -> str:
    """An Arrow schema as base64 of its IPC message."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from_text(text: str) -> pa.Schema:
    """The inverse of `schema_to_text`."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
