"""A window on its way through the steps of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchinfer.data.reader import Window
from batchinfer.errors import InputError
from batchinfer.pipeline.graph import Graph
from batchinfer.pipeline.passage import Passage, Positions


@dataclass(frozen=True)
class Unanswered:
    """Rows of a window that a step failed on, as results of the step."""

    step: int
    results: pa.Table


@dataclass
class WindowRows:
    """The rows of a window, and the step that they are at."""

    window: Window
    graph: Graph
    step: int = -1
    """The place in the graph; the number of steps where all are behind."""
    table: pa.Table = field(init=False)
    """What the step reads of the rows that it takes."""
    ordinals: NDArray[np.int64] = field(init=False)
    """Of these rows, in the shard."""
    taken: NDArray[np.int64] = field(init=False)
    """Of all rows that the step takes; `table` and `ordinals` may have been narrowed to some of them."""
    keys: list[bytes] | None = None
    """Of the content of all rows that the step takes; None where it isn't asked for."""
    followers: NDArray[np.intp] | None = None
    """Positions in `taken` of rows that wait for the answer to others; None where none may."""
    missing: int = 0
    """Rows that the step still has to answer."""
    counted: int = 0
    """Rows that were counted as finished, for people."""
    unanswered: list[Unanswered] = field(default_factory=list)
    passage: Passage = field(init=False)
    truncated: NDArray[np.bool_] = field(init=False)
    """Which rows of the window a model saw only the beginning of."""
    _positions: Positions = field(init=False)
    _results: list[pa.Table] = field(default_factory=list)
    _whole: pa.Table = field(init=False)

    def __post_init__(self) -> None:
        self.passage = Passage(self.graph, self.window.table)
        self.truncated = np.zeros(len(self.passage), np.bool_)
        self.table, self.ordinals = self.window.table.slice(0, 0), self.window.ordinals[:0]
        self.taken, self._whole = self.ordinals, self.table
        self._positions = np.empty(0, np.intp)

    @property
    def is_through(self) -> bool:
        """Whether all steps are behind."""
        return self.step >= len(self.graph.nodes)

    @property
    def is_last(self) -> bool:
        """Whether no step comes after this one."""
        return self.step >= len(self.graph.nodes) - 1

    def go_on(self) -> tuple[NDArray[np.int64], list[InputError]]:
        """To the next step; the ordinals of rows whose condition can't be evaluated, and why: results that say so must be added."""
        self.step += 1
        self._results, self.keys, self.followers = [], None, None
        failed: list[tuple[int, InputError]] = []
        good = np.empty(0, np.intp)
        if not self.is_through:
            good, failed = self.passage.for_step(self.graph.nodes[self.step])
        at = np.array([row for row, _ in failed], np.intp)
        self._positions = np.union1d(good, at) if failed else good
        self.missing = len(self._positions)
        self.ordinals = self.window.ordinals if len(good) == len(self.passage) else self.window.ordinals[good]
        if len(good):
            self.table = self.passage.rows(self.graph.nodes[self.step], good)
        self.taken, self._whole = self.ordinals, self.table
        return self.window.ordinals[at], [error for _, error in failed]

    def narrow(self, positions: NDArray[np.intp], followers: NDArray[np.intp] | None) -> None:
        """Have the model answer only some of the rows that the step takes now, and others wait, by their positions in `taken`."""
        self.ordinals, self.followers = self.taken[positions], followers
        self.table = self._whole if len(positions) == len(self.taken) else self._whole.take(pa.array(positions))

    @property
    def waits(self) -> bool:
        """Whether all that is missing are rows that wait for the answer to others."""
        return self.followers is not None and self.missing == len(self.followers) > 0

    def looked_at(self, ordinals: NDArray[np.int64]) -> pa.Table:
        """What the step looks at of some rows, its condition too."""
        rows = self.passage.select(self.graph.nodes[self.step].consumes, np.arange(len(self.passage)))
        return rows.take(pa.array(np.searchsorted(self.window.ordinals, ordinals)))

    def add(self, results: pa.Table) -> bool:
        """Take in results of the step (of its chunk's schema); True once all its rows are there."""
        self._results.append(results)
        self.missing -= len(results)
        return self.missing == 0

    def leave(self, columns: Sequence[str], schema: pa.Schema, *, skip: bool) -> int:
        """Add what the step gave to the rows; how many of them it failed on.

        Args:
            columns: that the step computes.
            schema: of its results.
            skip: whether rows that it failed on go on all the same.

        """
        results = self._in_order(schema)
        if pc.any(results["_truncated"]).as_py():
            self.truncated[self._positions] |= np.asarray(results["_truncated"])
        if results["_dead"].null_count == len(results):
            self.passage.give(self._positions, results.select(columns))
            return 0
        dead = results["_dead"].is_valid()
        alive, failed = pc.invert(dead), np.asarray(dead)
        self.passage.give(self._positions[~failed], results.filter(alive).select(columns))
        if not skip:
            self.passage.drop(self._positions[failed])
            self.unanswered.append(Unanswered(self.step, results.filter(dead)))
        return int(failed.sum())

    def _in_order(self, schema: pa.Schema) -> pa.Table:
        """All results in input order."""
        table = pa.concat_tables(self._results or [schema.empty_table()]).combine_chunks()
        ordinals = table["_ordinal"].to_numpy()
        if np.any(ordinals[1:] <= ordinals[:-1]):
            table = table.take(pa.array(np.argsort(ordinals)))
        return table
