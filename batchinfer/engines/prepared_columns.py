"""Columns made ready for models, tokenised or decoded, and known again by what they were made of: neither another step of the job nor
another job on this machine makes them a second time.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.engines.inputs import Column, contiguous
from batchinfer.storage.kept_bytes import KeptBytes

_MEMORY_BYTES = 256 << 20
"""For steps that prepare alike: a window is at the second of them soon after it was at the first."""
_FORM = 1
"""Of what is kept; another one is not read."""


class PreparedColumns:
    """See above. Any thread may use it. A process that it travels to begins with an empty memory.

    Args:
        kept: where this machine keeps them for other jobs; None for nowhere.

    """

    def __init__(self, kept: KeptBytes | None = None) -> None:
        self._kept = kept
        self._steps: dict[str, set[str]] = {}
        """By the maker's digest, the steps that it makes columns for."""
        self._memory: OrderedDict[str, pa.Table] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[PreparedColumns], tuple[KeptBytes | None]]:
        return type(self), (self._kept,)

    def by(self, step: str, *told: Any) -> Maker:
        """Who makes a step's; `told`, values of JSON, is all that decides what is made of given columns."""
        text = json.dumps([_FORM, *told], sort_keys=True)
        maker = Maker(self, hashlib.sha256(text.encode()).hexdigest())
        with self._lock:
            self._steps.setdefault(maker.digest, set()).add(step)
        return maker

    def is_of_use(self, maker: str) -> bool:
        """Whether there is anybody to keep for what a maker makes, by its digest."""
        return self._kept is not None or len(self._steps.get(maker, ())) > 1

    def get(self, key: str, make: Callable[[], pa.Table]) -> pa.Table:
        """What is known by this key, or else what `make` gives. Raises what it raises."""
        with self._lock:
            if (known := self._memory.get(key)) is not None:
                self._memory.move_to_end(key)
                return known
        table = self._find(key)
        if table is None:
            table = make()
            if self._kept is not None:
                self._kept.keep(key, _written(table))
        with self._lock:
            self._remember(key, table)
        return table

    def _find(self, key: str) -> pa.Table | None:
        data = None if self._kept is None else self._kept.find(key)
        return None if data is None else pa.ipc.open_stream(data).read_all()

    def _remember(self, key: str, table: pa.Table) -> None:
        if key in self._memory or table.nbytes > _MEMORY_BYTES:
            return
        self._memory[key] = table
        self._bytes += table.nbytes
        while self._bytes > _MEMORY_BYTES:
            self._bytes -= self._memory.popitem(last=False)[1].nbytes


@dataclass(frozen=True)
class Maker:
    """A way to make columns ready."""

    prepared: PreparedColumns
    digest: str
    """Of what tells it from others."""

    @property
    def is_remembered(self) -> bool:
        """Whether what it makes is kept for anybody."""
        return self.prepared.is_of_use(self.digest)

    def of(self, columns: Sequence[Column], make: Callable[[], pa.Table]) -> pa.Table:
        """What `make` gives for these columns, which is called only where that isn't known. Raises what it raises."""
        if not self.is_remembered:
            return make()
        return self.prepared.get(hashlib.sha256(self.digest.encode() + _content(columns)).hexdigest(), make)


def _content(columns: Sequence[Column]) -> bytes:
    """A digest of the values. Equal values that Arrow holds in other ways may have another one, and are then prepared once more."""
    every = pa.array(np.arange(len(columns[0])))
    # Copied: what is cut from a longer column would be written with some of what lies around it.
    arrays = [contiguous(column).take(every) for column in columns]
    table = pa.Table.from_arrays(arrays, names=[str(number) for number in range(len(arrays))])
    return hashlib.sha256(_written(table, compression=None)).digest()


def _written(table: pa.Table, compression: str | None = "lz4") -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return sink.getvalue()
