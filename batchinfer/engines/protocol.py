"""What an engine is. The worker drives it: load once, then prepare a window, infer its batches, finish their outputs.

`prepare` and `finish` run on CPU threads beside the device; `infer` runs alone on the device's thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Rows = slice | NDArray[np.intp]
"""Positions of rows inside a window: a slice (step 1) where they are consecutive, so that nothing is copied."""


@dataclass(frozen=True)
class Identity:
    """What makes a model the same model: goes into the job's fingerprint."""

    digest: str
    """SHA-256 over the model's files (their names and bytes) and the code that it names, hexadecimal."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by file, relative to the model's folder or the code path: shows what changed."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that run the model, by distribution name."""
    revision: str | None = None
    """The commit that an `hf:` address resolved to; None for any other model. Not in `digest`: the bytes are."""


@dataclass(frozen=True)
class Description:
    """What a loaded engine says of itself."""

    outputs: Mapping[str, pa.DataType | None]
    """Output names and their types; None where the type shows only in a result."""
    precision: str
    """The precision it was loaded at, as a job file has it, or native."""
    device: str
    max_length: int | None = None
    """Tokens after which a row is cut; None where rows have no length or are never cut."""
    applied: Mapping[str, Any] = field(default_factory=dict)
    """What the precision's recipe did: `quantized_layers`, of how many `layers`, `compiled`; empty where its name says it all."""
    provider: str | None = None
    """The execution provider or device that the engine's library says it runs on; None where `device` says it all."""
    side_by_side: bool = True
    """Whether calls may be made from several threads at a time; not those of a user's class, which may not bear that."""


class Prepared(Protocol):
    """The rows of one window, ready for the device."""

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """Tokens of each row after cutting, shape (rows,); None where all rows are of one size."""

    @property
    def truncated(self) -> NDArray[np.bool_] | None:
        """Which rows were cut to the model's maximum length, shape (rows,); None where rows are never cut."""

    @property
    def row_bytes(self) -> int | None:
        """Bytes of a row in a batch, where that is far more than its columns have, as of images; None: about as many as these."""

    def __len__(self) -> int:
        """Number of rows."""

    def batch(self, rows: Rows) -> Any:
        """These rows, padded to their longest, as `infer` takes them.

        Depends on these rows alone: equal rows give equal batches, in any order of calls and from several threads. What the user's own code
        raises for a row is raised as it is, as by `Engine.prepare`.
        """


class Engine(Protocol):
    """A kind of model that can be loaded and run. Built from a `Step` of the job file, in the worker's process."""

    def load(self, device: str, precision: str, threads: int) -> Description:
        """Bring the model onto `device` (`cpu`, `cuda`, `cuda:1`, `mps`) at `precision`.

        `precision` is one of `registry.precisions`: a recipe's name, or `native` for a model that runs as it is. Called
        again with another precision it replaces the model. Raises ModelError when the model can't be loaded so; what the user's own class
        raises while it is built is raised as it is, and means the same.
        """

    def prepare(self, rows: pa.Table) -> Prepared:
        """Turn the rows of one window into what batches are cut from.

        `rows` has the job's own columns, under their own names: at least every column that `step.inputs` names, each
        once, even where two inputs share it. The engine maps them to the model's inputs itself (`engines.inputs`), a
        list of columns to a matrix.

        Raises whatever a bad row raises, unwrapped (TypeError "text is null"): the caller finds the row by bisecting.
        Raises ModelError for a column whose type the model can't take at all.
        """

    def infer(self, batch: Any) -> Any:
        """Run the model on one batch; returns when the results are on the host, so a device error is raised here.

        Raises whatever a bad row raises, and ModelError for what no other row would mend.
        """

    def finish(self, outputs: Any) -> Mapping[str, pa.Array]:
        """One Arrow array per name in `step.outputs`, in the batch's row order, on the CPU.

        Raises ModelError when the model gave another number of outputs than it got rows, or lacks an output.
        """


class ModelEngine(Engine, Protocol):
    """An engine that holds the model itself, as those of the registry do; others call one that is elsewhere."""

    def without_model(self) -> Engine:
        """This loaded engine for `prepare` and `finish` alone, on a host without a device; pickle takes it to other processes."""
