"""Which use a step makes of a graph."""

from __future__ import annotations

from batchinfer.engines.arrays import Columns
from batchinfer.engines.encoder import Texts
from batchinfer.engines.graph import Graph, Use
from batchinfer.engines.graph_files import find_graph
from batchinfer.engines.options import ColumnOptions, MaxLength, Options
from batchinfer.engines.pixels import ImageColumns
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.job.steps import Step
from batchinfer.storage.store import StorageOptions


def use_for(
    step: Step, options: Options, storage: StorageOptions, prepared: PreparedColumns, graph: Graph, threads: int
) -> Use:
    """On columns, or on texts for a step with a task. Raises ModelError where the graph doesn't fit."""
    if step.task is None:
        assert isinstance(options, ColumnOptions)
        return Columns(step, graph, ImageColumns(options.images, storage, step.name, prepared))
    folder = find_graph(step).texts
    assert folder is not None
    assert isinstance(options, MaxLength)
    return Texts(step, graph, folder, options, prepared, threads)
