"""An engine that does what a test says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.protocol import Description, Rows
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.pipeline.batching import positions

Model = Callable[[list[int]], Mapping[str, Any]]


class Prepared:
    def __init__(self, values: list[int], lengths: NDArray[np.int64] | None) -> None:
        self.values, self.lengths, self.truncated, self.row_bytes = values, lengths, None, None

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, rows: Rows) -> list[int]:
        return [self.values[n] for n in (positions(rows) if isinstance(rows, slice) else rows)]


class FakeEngine:
    """A model that is a function of the values of `x`; keeps to the engine protocol."""

    def __init__(
        self,
        model: Model,
        types: Mapping[str, pa.DataType | None] | None = None,
        *,
        seconds: Mapping[str, float] | None = None,
        refuses: tuple[str, ...] = (),
        breaks: tuple[str, ...] = (),
        lengths: bool = False,
        side_by_side: bool = True,
        load_seconds: float = 0.0,
    ) -> None:
        self._side_by_side, self._load_seconds = side_by_side, load_seconds
        self._model, self._types, self._seconds = model, types or {"y": None}, seconds or {}
        self._refuses, self._breaks, self._lengths = refuses, breaks, lengths
        self.loads: list[str] = []
        self.loaded: str | None = None
        self.rows = self.threads = 0

    def load(self, device: str, precision: str, threads: int) -> Description:
        self.loads.append(precision)
        self.threads = threads
        self.loaded = None
        time.sleep(self._load_seconds)
        if precision in self._refuses:
            raise ModelError(f"no {precision} on {device}")
        self.loaded = precision
        return Description(self._types, precision, device, side_by_side=self._side_by_side)

    def prepare(self, rows: pa.Table) -> Prepared:
        values = rows["x"].to_pylist()
        if -1 in values:
            raise ValueError("x is -1, which can't be prepared")
        return Prepared(values, np.array(values, np.int64) if self._lengths else None)

    def infer(self, batch: list[int]) -> Mapping[str, Any]:
        assert self.loaded is not None, "no model is loaded"
        if self.loaded in self._breaks:
            raise RuntimeError(f"'erfinv' not implemented for {self.loaded}")
        time.sleep(self._seconds.get(self.loaded, 0))
        self.rows += len(batch)
        return self._model(batch)

    def finish(self, outputs: Any) -> Mapping[str, pa.Array]:
        return {k: v if isinstance(v, pa.Array) else pa.array(v) for k, v in outputs.items()}


def step(engine: str = "torch", precision: str = "auto", **outputs: Any) -> Step:
    keys = {"engine": engine, "uri": "/m.pt", "inputs": {"x": "x"}, "outputs": outputs or {"y": "score"}}
    return Step.model_validate({**keys, "precision": precision})


def table(values: Any) -> pa.Table:
    return pa.table({"x": pa.array(list(values), pa.int64())})


def doubled(batch: list[int]) -> Mapping[str, Any]:
    return {"y": [float(v) * 2 for v in batch]}


FLOAT = {"y": pa.float32()}
