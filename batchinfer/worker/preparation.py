"""A window made ready for the model: its batches, and the rows that never get there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.protocol import Engine, Prepared, Rows
from batchinfer.errors import BatchinferError
from batchinfer.pipeline.batching import batches, positions
from batchinfer.worker.context import RowError
from batchinfer.worker.isolate import isolate
from batchinfer.worker.items import Batch, Results
from batchinfer.worker.shard_run import ShardRun
from batchinfer.worker.window_rows import WindowRows


def prepared_pieces(run: ShardRun, rows: WindowRows) -> Iterator[Batch | Results]:
    """The batches of a window at its step, and the results of rows that need no model: from a checkpoint, or because they can't be prepared.

    Raises BatchinferError.
    """
    if rows.is_through:
        yield Results(run, rows, rows.window.table.slice(0, 0), fresh=False)
        return
    step = run.at(rows)
    known = step.from_checkpoint(rows.ordinals) if step.recall is None else step.recall.look(rows, step)
    if known is not None:
        yield Results(run, rows, known, fresh=False)
    ordinals = rows.ordinals
    if not len(ordinals) or (known is not None and step.recall is None):
        return
    pieces, dead = _piecewise(step.engine, rows.table)
    for good, prepared in pieces:
        for some in batches(len(good), prepared.lengths, step.settings.budget):
            at = positions(some)
            if (known := step.from_checkpoint(ordinals[good[at]])) is not None:
                yield Results(run, rows, known, fresh=False)
            else:
                whole, bad = _batches(prepared, some)
                yield from (Batch(run, rows, prepared, at_, ordinals[good[at_]], load) for at_, load in whole)
                dead += [(int(good[n]), error) for n, error in bad]
    if dead:  # after the others: the circuit breaker shall see what succeeds first
        at = np.array([n for n, _ in dead], np.intp)
        yield Results(run, rows, run.dead_rows(rows, ordinals[at], [e for _, e in dead]), fresh=True)


def _piecewise(
    engine: Engine, table: pa.Table
) -> tuple[list[tuple[NDArray[np.intp], Prepared]], list[tuple[int, RowError]]]:
    """The rows prepared, by position, and those that can't be: as a whole where that goes, else what goes together."""
    every = np.arange(len(table))
    try:
        return [(every, engine.prepare(table))], []
    except BatchinferError:
        raise
    except BaseException:  # noqa: BLE001, S110 - whatever a row raises, isolate finds the row
        pass
    found = isolate(lambda some: engine.prepare(table.take(pa.array(some))), every)
    good = np.setdiff1d(every, [n for n, _ in found.dead])
    if not len(good):
        return [], found.dead
    try:
        return [(good, engine.prepare(table.take(pa.array(good))))], found.dead
    except BatchinferError:
        raise
    except BaseException:  # noqa: BLE001 - each was prepared, but not together with all others
        return sorted(found.results, key=lambda piece: int(piece[0][0])), found.dead


def _batches(prepared: Prepared, some: Rows) -> tuple[list[tuple[NDArray[np.intp], Any]], list[tuple[int, RowError]]]:
    """A batch by the positions of its rows, in several pieces where it has rows that raise, and those."""
    at = positions(some)
    try:
        return [(at, prepared.batch(some))], []
    except BatchinferError:
        raise
    except BaseException:  # noqa: BLE001 - whatever a row raises, isolate finds the row
        found = isolate(prepared.batch, at)
    return sorted(found.results, key=lambda piece: int(piece[0][0])), found.dead
