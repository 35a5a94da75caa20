"""The steps of a job as a graph: which columns each reads and writes, in which order they run, and what is wrong with it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from batchinfer.data.expressions import Expression
from batchinfer.data.where import Where
from batchinfer.engines.inputs import columns_of
from batchinfer.errors import JobFileError, Problem
from batchinfer.job import cascades
from batchinfer.job.nearest import nearest
from batchinfer.job.spec import JobSpec
from batchinfer.job.steps import OTHERWISE, AnyStep, Cascade, RulesStep, Step


@dataclass(frozen=True)
class Node:
    """A step among others."""

    step: AnyStep
    reads: tuple[str, ...]
    """Columns that its rows are handed over with, each once."""
    before: tuple[str, ...]
    """Names of the steps before it that write the same columns: a row goes to the first of them whose `when` holds."""
    condition: Where | None
    """Of its `when`; None where it takes what comes."""

    @property
    def name(self) -> str:
        """The step's."""
        return self.step.name

    @property
    def is_model(self) -> bool:
        """Whether the step has a model, to be loaded and measured."""
        return isinstance(self.step, Step)

    @property
    def consumes(self) -> tuple[str, ...]:
        """Every column that it looks at: what it reads, and what its condition does."""
        answer = getattr(getattr(self.step, "cascade", None), "answer", None)  # which its own are compared with
        told = self.condition.columns if self.condition else ()
        return tuple(dict.fromkeys([*self.reads, *told, *([answer] if answer else [])]))


@dataclass(frozen=True)
class Graph:
    """All steps of a job."""

    nodes: tuple[Node, ...]
    """In running order."""
    written: tuple[str, ...]
    """The computed columns of the output, in the order of the job file, without `step_used`."""
    step_used: str | None = None
    """The column for the names of the steps with a `when` that took a row, behind the others; None where it isn't asked for."""

    @cached_property
    def computed(self) -> Mapping[str, tuple[str, ...]]:
        """By computed column the names of the steps that write it, in running order."""
        found: dict[str, tuple[str, ...]] = {}
        for node in self.nodes:
            for column in node.step.computed:
                found[column] = (*found.get(column, ()), node.name)
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """All computed columns of the output."""
        return self.written if self.step_used is None else (*self.written, self.step_used)

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns of the input that the steps look at, each once."""
        return tuple(dict.fromkeys(column for node in self.nodes for column in self.read_from_input(node)))

    def read_from_input(self, node: Node) -> list[str]:
        """What a step looks at that no other step computes."""
        return [c for c in node.consumes if not set(self.computed.get(c, ())) - {node.name}]

    def node(self, name: str) -> Node:
        """The step of a name."""
        return next(node for node in self.nodes if node.name == name)

    def with_thresholds(self, thresholds: Mapping[str, float]) -> Graph:
        """The same with the thresholds of cascades, by the step's name."""
        nodes = (
            replace(n, condition=condition(n.step, thresholds[n.name])) if n.name in thresholds else n
            for n in self.nodes
        )
        return replace(self, nodes=tuple(nodes))


def reads(step: AnyStep) -> tuple[str, ...]:
    """The columns that a step's rows are handed over with, each once. Raises InputError for a rule that is no expression."""
    if isinstance(step, Step):
        return columns_of(step)
    if isinstance(step, RulesStep):
        rules = [Expression(sql, f"{step.name}.rules.{name}") for name, sql in step.rules.items()]
        return tuple(dict.fromkeys(column for rule in rules for column in rule.columns))
    return tuple(dict.fromkeys(step.inputs))


def condition(step: AnyStep, threshold: float | None = None) -> Where | None:
    """Of a step's `when`, or of a cascade's threshold once that is found. Raises InputError where that is no condition."""
    if threshold is not None:
        assert isinstance(step, Step)
        assert isinstance(step.cascade, Cascade)
        return Where(cascades.condition(step.cascade, threshold), f"{step.name}.cascade")
    return Where(step.when, f"{step.name}.when") if step.when not in (None, OTHERWISE) else None


def graph_of(spec: JobSpec) -> Graph:
    """The graph of a job's steps, which `problems` must have found nothing wrong with."""
    steps, columns = spec.steps, spec.output.columns
    nodes = {step.name: node for step, node in zip(steps, _nodes(steps), strict=True)}
    ordered: list[Node] = []
    while nodes:
        ready = next((n for n in nodes.values() if not _waits_for(n, nodes)), None)
        assert ready is not None, "problems() refuses circles"
        ordered.append(nodes.pop(ready.name))
    consumed = {c: {n.name for n in ordered if c in n.consumes} for n in ordered for c in n.step.computed}
    every = dict.fromkeys(c for step in steps for c in step.computed)
    ends = [c for c in every if not consumed[c] - {n.name for n in ordered if c in n.step.computed}]
    written = ends if columns is None else [c for c in every if c in columns]
    return Graph(tuple(ordered), tuple(written), spec.output.step_used)


def _nodes(steps: Sequence[AnyStep]) -> list[Node]:
    found: list[Node] = []
    for step in steps:
        before = tuple(n.name for n in found if set(n.step.computed) & set(step.computed))
        found.append(Node(step, reads(step), before, condition(step)))
    return found


def _waits_for(node: Node, others: Mapping[str, Node]) -> list[str]:
    """Names of the others that a step comes after: those that write what it looks at, and its alternatives before it."""
    own = set(node.consumes) - set(node.step.computed)
    return [n.name for n in others.values() if n is not node and (n.name in node.before or own & set(n.step.computed))]


def check(spec: JobSpec) -> None:
    """Check a job's steps among themselves. Raises JobFileError with all that is wrong, InputError for a condition or rule that is none."""
    if wrong := list(problems(spec)):
        raise JobFileError(spec.name, wrong)


def problems(spec: JobSpec) -> Iterator[Problem]:
    """What is wrong with a job's steps among themselves: duplicate columns, circles, steps that nothing comes of."""
    nodes = _nodes(spec.steps)
    found = [*_duplicates(nodes), *_circles(nodes)]
    yield from found
    if found:
        return
    whole = graph_of(spec)
    for name in spec.output.columns or ():
        if name not in whole.computed:
            yield Problem("output.columns", f"no step computes the column {name!r}{_meant(name, whole.computed)}")
    if whole.step_used is not None and not any(node.step.when for node in nodes):
        yield Problem("output.step_used", "no step has a when, so all of them take every row: remove it")
    for node in nodes:
        used = {c for n in nodes if n is not node for c in n.consumes} | set(whole.written)
        if not used & set(node.step.computed):
            yield Problem(
                node.name,
                f"nothing comes of this step: {', '.join(map(repr, node.step.computed))} is neither read by a step nor in "
                "output.columns; add it there, or remove the step",
            )


def _duplicates(nodes: Sequence[Node]) -> Iterator[Problem]:
    for node in nodes:
        if node.step.when == OTHERWISE and not node.before:
            yield Problem(
                f"{node.name}.when", "is otherwise, but no step before it writes the same columns: write a condition"
            )
        for other in (n for n in nodes if n.name in node.before):
            if other.step.when not in (None, OTHERWISE) and node.step.when is not None:
                continue
            shared = next(c for c in node.step.computed if c in other.step.computed)
            yield Problem(
                f"{node.name}.{'rules' if isinstance(node.step, RulesStep) else 'outputs'}",
                f"{other.name} computes the column {shared!r} too: give each its own name, or, where a row is to be computed by one of "
                f"them, say by which: {other.name}.when with a condition, {node.name}.when with another one or otherwise",
            )


def _circles(nodes: Sequence[Node]) -> Iterator[Problem]:
    left = {n.name: n for n in nodes}
    while ready := [n for n in left.values() if not _waits_for(n, left)]:
        for node in ready:
            del left[node.name]
    if not left:
        return
    way = [next(iter(left))]
    while (after := _waits_for(left[way[-1]], left)[0]) not in way:
        way.append(after)
    circle = [*way[way.index(after) :], after]
    told = []
    for one, other in itertools.pairwise(circle):
        column = next((c for c in left[one].consumes if c in left[other].step.computed), None)
        told.append(f"{one} needs {column!r} of {other}" if column else f"{one} comes after {other}")
    yield Problem(circle[0], f"the steps go round in a circle: {', and '.join(told)}")


def _meant(name: str, known: Mapping[str, object]) -> str:
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else f": there are {', '.join(map(repr, known))}"
