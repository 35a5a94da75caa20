"""`map`: a frame in memory through the same machinery as a job."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.api.job import Job
from batchinfer.errors import BatchinferError


def map(  # noqa: A001 - the word of the field; used as batchinfer.map
    frame: Any, model: Mapping[str, Any], *, errors: Literal["raise", "null"] = "raise", **sections: Any
) -> Any:
    """Predict the rows of a polars or Arrow frame in memory: the frame with the model's outputs as further columns.

    The same engine, batching and isolation as a job, inline, with a temporary directory as output.

    Args:
        frame: polars DataFrame or pyarrow Table, shape (rows, columns).
        model: the `model` section of a job file.
        errors: what rows that can't be predicted do: raise, or have nulls.
        **sections: further sections of a job file, such as `batching` or `code`.

    Returns:
        A frame of the kind that came in, shape (rows, columns + outputs), in the same order.

    Raises:
        BatchinferError: rows can't be predicted and `errors` is `raise`; or as `Job.run`.

    """
    table = frame if isinstance(frame, pa.Table) else frame.to_arrow()
    index = "__batchinfer_row"
    with tempfile.TemporaryDirectory(prefix="batchinfer-map-") as folder:
        pq.write_table(table.append_column(index, pa.array(range(len(table)), pa.int64())), f"{folder}/input.parquet")
        places = {
            "input": {"path": f"{folder}/input.parquet"},
            "output": {"path": f"{folder}/output", "carry": [index]},
        }
        job = Job(
            name="map",
            model=dict(model),
            **places,
            **{
                "errors": {"threshold": -1},
                "resources": {"executor": "inline"},
                "report": {"html": False, "openlineage": "off"},  # of a folder that is gone in a moment
                **sections,
            },
        )
        run = job.run(progress="none")
        dead = run.errors()
        if len(dead) and errors == "raise":
            first = dead.row(0, named=True)
            raise BatchinferError(
                f"{len(dead)} of {len(table)} rows can't be predicted; the first is row {first['row']}: {first['error_type']}: {first['message']}"
            )
        if run.exit_code != 0:
            raise BatchinferError("; ".join(run.record.get("errors", [])) or f"the run ended as {run.state}")
        outputs = run.results().collect().to_arrow()
    answered = outputs[index].to_numpy()
    place = np.full(len(table), -1)
    place[answered] = np.arange(len(answered))
    outputs = outputs.drop_columns([index]).take(pa.array(place, mask=place < 0))
    for name in outputs.column_names:
        table = table.append_column(name, outputs[name])
    if isinstance(frame, pa.Table):
        return table
    import polars as pl

    return pl.from_arrow(table)
