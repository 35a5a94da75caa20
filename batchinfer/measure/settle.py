"""Settle all steps of a job, one after the other: each is measured on what those before it make of the job's rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from batchinfer.data.types import parse_type
from batchinfer.engines.derived import DerivedEngine
from batchinfer.engines.inputs import is_number
from batchinfer.engines.protocol import Engine
from batchinfer.errors import ModelError
from batchinfer.job.cascades import output_of
from batchinfer.job.steps import UNDECIDED, Batching, Cascade, CombineStep, RulesStep, Step
from batchinfer.measure.candidates import SHARE
from batchinfer.measure.cascade import compared, find
from batchinfer.measure.choose import choose
from batchinfer.measure.comparison import Sample
from batchinfer.measure.duplicates import duplicates, is_slow, row_seconds
from batchinfer.measure.settings import Settings, StepSettings
from batchinfer.measure.timing import answers
from batchinfer.pipeline.batching import Budget
from batchinfer.pipeline.breaker import CircuitBreaker
from batchinfer.pipeline.graph import Graph, Node
from batchinfer.pipeline.passage import Passage, Positions

_LEAST_ROWS = 64
"""That steps after the first are measured on; more where measuring may take more of the job."""
DERIVED_ROWS = 1 << 16
"""Of a batch of a step without a model."""


@dataclass(frozen=True)
class Place:
    """Where a step is measured, and with what."""

    engine: Engine
    device: str
    threads: int
    known: Mapping[str, Any] | None
    """What says that the model and the device are those of another job; None: nothing is remembered."""
    side_by_side: bool
    """Whether the engine can be called from several threads at a time."""
    again: Callable[[StepSettings], None]
    """Loads the engine with its settings, where it has been let go of."""


@dataclass(frozen=True)
class JobInput:
    """The rows that there are to measure on."""

    first: Callable[[], Iterator[pa.Table]]
    """Windows from the first row on, read as far as needed."""
    sample: Callable[[int], Sample | None]
    """At most so many rows, spread over the job, with the columns of labels."""
    rows: int
    """Of the job, for one worker."""
    schema: pa.Schema
    """Of what is read."""


class Settling:
    """The steps of a job in running order, as far as they are settled.

    Args:
        graph: the steps.
        places: by the step's name.
        rows: of the job.
        batching: what the job file says of batches.
        breaker: makes one that opens when all of the first rows fail alike.
        pinned: output columns whose types stand already.
        told: is called with a step's settings once they are there, and gives them as they are kept.
        settled: is called with each step that has been settled, and may let go of its model: see `Place.again`.
        deduplicate: whether rows of equal content are predicted once; auto: where that pays.

    """

    def __init__(
        self,
        graph: Graph,
        places: Mapping[str, Place],
        rows: JobInput,
        batching: Batching,
        breaker: Callable[[], CircuitBreaker],
        pinned: pa.Schema | None,
        told: Callable[[Node, StepSettings], StepSettings],
        settled: Callable[[Node], None],
        deduplicate: Literal["auto"] | bool = False,
    ) -> None:
        self._deduplicate, self._on_settled = deduplicate, settled
        self._graph, self._places, self._rows, self._batching = graph, places, rows, batching
        self._breaker, self._pinned, self._told = breaker, pinned, told
        self._settled: dict[str, StepSettings] = {}

    def settings(self) -> Settings:
        """The job's settings; leaves the engines loaded accordingly.

        Raises:
            CircuitBreakerError: the first rows all fail with one error type.
            GateError: a precision that is asked for fails the quality gate.
            ModelError: a model can't be loaded, or lacks an output.
            InputError: a rule or condition doesn't go with the types of its columns.

        """
        passage: Passage | None = None
        names = [node.name for node in self._graph.nodes]
        for name in names:
            node = self._graph.node(name)
            settled = self._told(node, self._settle(node, passage))
            self._settled[node.name] = settled = self._deduplicated(node, settled, passage)
            if isinstance(node.step, Step) and isinstance(node.step.cascade, Cascade):
                self._settled[node.name] = settled = self._with_threshold(node, node.step, node.step.cascade, settled)
                self._graph = self._graph.with_thresholds({node.name: settled.threshold or 0.0})
                node = self._graph.node(name)
            if name != names[-1]:
                passage = self._some() if passage is None else passage
                self._apply(node, passage)
            self._on_settled(node)
        fields = {f.name: f for step in self._settled.values() for f in step.outputs}
        used = [] if self._graph.step_used is None else [pa.field(self._graph.step_used, pa.string())]
        return Settings(self._settled, pa.schema([*(fields[name] for name in self._graph.written), *used]))

    def _with_threshold(self, node: Node, step: Step, cascade: Cascade, settings: StepSettings) -> StepSettings:
        """Settings with the threshold below which rows come to a step, by what it and the smaller model answer to some of them.

        Raises GateError as `cascade.find` does, and ModelError as `cascade.compared` does.
        """
        kind = self._types[str(cascade.confidence)]
        if not is_number(kind):
            raise ModelError(
                f"{step.name}.cascade.confidence: the column {cascade.confidence!r} is {kind}, and must be a number"
            )
        found = self._rows.sample(cascade.sample)
        if found is None:
            return replace(settings, threshold=UNDECIDED)
        passage = Passage(self._graph, found.table)
        self._bring(passage, before=node)
        positions, _ = passage.for_step(node)
        told = passage.select([str(cascade.confidence), str(cascade.answer)], positions)
        given = answers(self._places[node.name].engine, passage.rows(node, positions), settings.budget)
        ours = given.outputs.get(output_of(step))
        if ours is None:
            return replace(settings, threshold=UNDECIDED)
        sure, theirs = (told.column(n).combine_chunks().take(given.positions) for n in (0, 1))
        confidence, agrees = compared(step, cascade, sure, theirs, ours)
        if not len(confidence):
            return replace(settings, threshold=UNDECIDED)
        chosen = find(confidence, agrees, cascade.agreement, step.name, whole=found.whole)
        measured = {**settings.measured, "cascade": chosen.to_json()}
        return replace(settings, threshold=chosen.chosen.threshold, measured=measured)

    def _deduplicated(self, node: Node, settings: StepSettings, some: Passage | None) -> StepSettings:
        """Settings that say whether rows of equal content are predicted once. Of itself not with a user's class, which may answer as it likes."""
        step, pace = node.step, settings.measured.get("seconds_per_row")
        if not isinstance(step, Step) or not step.cache or self._deduplicate is False:
            return settings
        if self._deduplicate is True:
            return replace(settings, deduplicate=True)
        first = None if step.engine == "python" or not is_slow(pace) else next(self._windows(node, some), None)
        if first is None:
            return settings
        found = duplicates(first)
        if pace is None and found.are_frequent:  # the model was never called
            pace = row_seconds(self._places[node.name].engine, first, settings.budget)
        measured = {**settings.measured, "duplicates": asdict(found)}
        return replace(settings, deduplicate=pace is not None and found.pays(pace), measured=measured)

    def _some(self) -> Passage:
        """Rows of the first window, spread over it: as many as measuring may take of the job."""
        first = next(self._rows.first(), self._rows.schema.empty_table())
        most = max(_LEAST_ROWS, int(SHARE * self._rows.rows))
        if len(first) > most:
            first = first.take(np.unique(np.linspace(0, len(first) - 1, most).astype(np.int64))).combine_chunks()
        return Passage(self._graph, first)

    def _bring(self, passage: Passage, before: Node) -> None:
        """Take rows through the steps before one."""
        for node in self._graph.nodes:
            if node is before:
                return
            self._apply(node, passage)

    def _apply(self, node: Node, passage: Passage) -> None:
        positions, failed = passage.for_step(node)
        passage.drop(np.array([row for row, _ in failed], np.intp))
        settings, place = self._settled[node.name], self._places[node.name]
        if not len(positions):
            passage.give(positions, settings.outputs.empty_table())
            return
        place.again(settings)
        given = answers(place.engine, passage.rows(node, positions), settings.budget)
        answered = positions[given.positions.to_numpy()]
        if len(answered) < len(positions) and node.step.errors.on_failure == "dead":
            passage.drop(np.setdiff1d(positions, answered))
        columns = [
            given.outputs[name].cast(field.type, safe=False) if len(answered) else pa.nulls(0, field.type)
            for name, field in zip(node.step.outputs, settings.outputs, strict=True)
        ]
        passage.give(answered, pa.Table.from_arrays(columns, schema=settings.outputs))

    def _taken(self, node: Node, passage: Passage) -> Positions:
        """What a step takes of these rows; where that is nothing, all that are left: it must be measured on something."""
        positions, _ = passage.for_step(node)
        return positions if len(positions) else passage.alive

    def _windows(self, node: Node, some: Passage | None) -> Iterator[pa.Table]:
        """What a step sees of the job's windows; of the first one only `some`, where steps come before it."""
        tables = self._rows.first()
        if some is not None:
            yield some.rows(node, self._taken(node, some))
            next(tables, None)
        for table in tables:
            passage = Passage(self._graph, table)
            self._bring(passage, before=node)
            positions, _ = passage.for_step(node)
            if len(positions):
                yield passage.rows(node, positions)

    def _settle(self, node: Node, some: Passage | None) -> StepSettings:
        if not isinstance(node.step, Step):
            return self._derived(node, node.step)
        step, place = node.step, self._places[node.name]
        return choose(
            place.engine,
            step,
            self._windows(node, some),
            _batching(step, self._batching),
            place.device,
            place.threads,
            self._rows.rows if some is None else self._count(node, some),
            self._breaker(),
            pa.schema(list(self._standing(node).items())),
            sample=lambda most: self._sample(node, step, most),
            known=place.known,
            side_by_side=place.side_by_side,
        )

    def _count(self, node: Node, some: Passage) -> int:
        """Rows of the job that a step will take, as far as some of them tell."""
        positions, _ = some.for_step(node)
        return -(-self._rows.rows * len(positions) // max(1, len(some)))

    def _sample(self, node: Node, step: Step, most: int) -> Sample | None:
        found = self._rows.sample(most)
        if found is None:
            return None
        passage = Passage(self._graph, found.table)
        self._bring(passage, before=node)
        label = step.gate.label if step.gate != "off" else None
        columns = dict.fromkeys([*node.reads, *([label] if label is not None else [])])
        table = passage.select(list(columns), self._taken(node, passage)).combine_chunks()
        return Sample(table, found.whole, self._digest(node, found.digest)) if len(table) else None

    def _digest(self, node: Node, rows: str) -> str:
        """Of what says which rows a step sees: the job's, and what was made of them."""
        if not rows or node is self._graph.nodes[0]:
            return rows
        before = [self._places[name].known for name in self._settled if self._graph.node(name).is_model]
        if None in before:
            return ""
        made = [[name, step.deciding] for name, step in self._settled.items()]
        steps = [n.step.model_dump(mode="json") for n in self._graph.nodes if not n.is_model]
        text = json.dumps([rows, [dict(b or {}) for b in before], made, steps], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def _types(self) -> dict[str, pa.DataType]:
        """Of the columns that there are so far, by name."""
        known = {f.name: f.type for f in self._rows.schema}
        return known | {f.name: f.type for settled in self._settled.values() for f in settled.outputs}

    def _standing(self, node: Node) -> dict[str, pa.DataType]:
        """Types that stand: those of parts that were written before, and of the alternatives before a step."""
        before = [f for name in node.before for f in self._settled[name].outputs]
        return {f.name: f.type for f in [*before, *(self._pinned or ())] if not pa.types.is_null(f.type)}

    def _derived(self, node: Node, step: RulesStep | CombineStep) -> StepSettings:
        """Of a step without a model: its types follow from those of its columns."""
        engine = self._places[node.name].engine
        assert isinstance(engine, DerivedEngine)
        types = engine.types(pa.schema(list(self._types.items())))
        stands = self._standing(node)
        fields = []
        for name, output in step.outputs.items():
            kind = parse_type(output.type) if output.type else types[name]
            other = stands.get(output.column, kind)
            if other != kind and not (is_number(other) and is_number(kind)):
                raise ModelError(
                    f"{node.name}: it gives {kind} for the column {output.column!r}, which is {other} elsewhere: CAST it to that"
                )
            fields.append(pa.field(output.column, other))
        return StepSettings("", Budget(DERIVED_ROWS), 1, pa.schema(fields))


def _batching(step: Step, batching: Batching) -> Batching:
    """As the step has it, else as the job does."""
    own = {key: value for key, value in step.batching.model_dump().items() if value is not None}
    return batching.model_copy(update=own)
