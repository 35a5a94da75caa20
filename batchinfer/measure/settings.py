"""What was measured or first seen, pinned once for a job, so that a later run builds the same batches and types."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from batchinfer.pipeline.batching import Budget


@dataclass(frozen=True)
class Settings:
    """The pinned choices of a job."""

    precision: str
    budget: Budget
    threads: int
    """CPU threads of one call of the model."""
    outputs: pa.Schema
    """The output columns with their types, in the step's order."""
    streams: int = 1
    """Calls of the model that a worker makes at a time; together they have `threads` times as many threads."""
    measured: dict[str, Any] = field(default_factory=dict, compare=False)
    """The figures behind the choices, for the report."""

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads; `output_types` is there for people."""
        return {
            "precision": self.precision,
            "batch_rows": self.budget.rows,
            "batch_tokens": self.budget.tokens,
            "threads": self.threads,
            "streams": self.streams,
            "output_types": {f.name: str(f.type) for f in self.outputs},
            "output_schema": schema_to_text(self.outputs),
            "measured": self.measured,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Settings:
        """The inverse of `to_json`."""
        return cls(
            precision=value["precision"],
            budget=Budget(value["batch_rows"], value["batch_tokens"]),
            threads=value["threads"],
            outputs=schema_from_text(value["output_schema"]),
            streams=value["streams"],
            measured=value["measured"],
        )

    @property
    def told_precision(self) -> dict[str, Any]:
        """The precision by `name` and the quality gate's verdict on it (`gate`), for the manifest."""
        gate = self.measured.get("gate")
        return {"name": self.precision, **({"gate": gate} if gate else {})}

    def within(self, threads: int) -> Settings:
        """The same where a worker has so many CPU threads, perhaps fewer than where they were measured: results depend on the threads of
        a call, and not on how many calls there are at a time.
        """
        return replace(self, streams=min(self.streams, max(1, threads // self.threads)))

    @property
    def digest(self) -> str:
        """SHA-256 over what decides about results (hexadecimal): chunks of other settings are not used."""
        parts = {k: v for k, v in self.to_json().items() if k not in ("measured", "output_types", "streams")}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def schema_to_text(schema: pa.Schema) -> str:
    """An Arrow schema as base64 of its IPC message."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from_text(text: str) -> pa.Schema:
    """The inverse of `schema_to_text`."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
