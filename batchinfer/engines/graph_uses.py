"""Which use a step makes of a graph."""

from __future__ import annotations

from batchinfer.engines.arrays import Columns
from batchinfer.engines.encoder import Texts
from batchinfer.engines.graph import Graph, Use
from batchinfer.engines.graph_files import find_graph
from batchinfer.engines.options import MaxLength, Options
from batchinfer.job.steps import Step


def use_for(step: Step, options: Options, graph: Graph, threads: int) -> Use:
    """On numeric columns, or on texts for a step with a task. Raises ModelError where the graph doesn't fit."""
    if step.task is None:
        return Columns(step, graph)
    folder = find_graph(step).texts
    assert folder is not None
    assert isinstance(options, MaxLength)
    return Texts(step, graph, folder, options, threads)
