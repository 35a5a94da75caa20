"""Rows of a file of the user's, in whose ranges a graph's layers round their inputs to 8 bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batchinfer.engines.graph import Use
from batchinfer.engines.inputs import columns_of
from batchinfer.engines.location import place_of
from batchinfer.errors import BatchinferError, ModelError
from batchinfer.job.steps import Step
from batchinfer.precision.artefacts import digest
from batchinfer.precision.calibration import Calibration

ROWS = 256
"""The first of the file that are used."""
_BATCH = 16


def file_of(step: Step) -> Path | None:
    """The file that the step names; None where it names none. Raises ModelError where it isn't there."""
    named, where = step.options.get("calibration"), f"{step.name}.options.calibration"
    if not isinstance(named, str):
        return None
    path = place_of(named, where)
    if not path.is_file():
        raise ModelError(f"{where}: there is no file {path}")
    return path


def check_file(step: Step, path: Path) -> None:
    """Raises ModelError for a file that is no Parquet, has no rows, or lacks a column that the step reads."""
    where = f"{step.name}.options.calibration"
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ModelError(f"{where}: {path} can't be read as Parquet: {error}") from error
    missing = [name for name in columns_of(step) if name not in file.schema_arrow.names]
    if missing:
        raise ModelError(f"{where}: {path} lacks {', '.join(missing)}, which the step reads: give rows like the job's")
    if not file.metadata.num_rows:
        raise ModelError(f"{where}: {path} has no rows")


def calibration(step: Step, use: Callable[[], Use]) -> Calibration | None:
    """That of a step, given its graph at full precision; None where the step names no file. Raises ModelError."""
    path = file_of(step)
    if path is None:
        return None

    def feeds() -> Iterable[Mapping[str, NDArray[Any]]]:
        check_file(step, path)
        opened = use()
        rows = next(pq.ParquetFile(path).iter_batches(ROWS, columns=list(columns_of(step))))
        try:
            prepared = opened.prepare(pa.Table.from_batches([rows]))
            return [opened.feeds(prepared.batch(slice(at, at + _BATCH))) for at in range(0, len(rows), _BATCH)]
        except BatchinferError:
            raise
        except Exception as error:
            raise ModelError(
                f"{step.name}.options.calibration: one of the first {len(rows)} rows of {path} can't be given to the model: {error}"
            ) from error

    options = {name: value for name, value in step.options.items() if name != "calibration"}
    told = [ROWS, _BATCH, digest(path), dict(step.inputs), options, step.task]
    return Calibration(json.dumps(told, sort_keys=True), feeds)
