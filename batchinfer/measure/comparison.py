"""A model at one precision beside itself at full precision, on rows of the job: what the quality gate judges by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.engines.protocol import Engine
from batchinfer.errors import GateError
from batchinfer.job.steps import Gate, Step
from batchinfer.measure.gate import compare
from batchinfer.measure.remembered import Remembered
from batchinfer.measure.timing import Answers, answers
from batchinfer.measure.verdict import Verdict
from batchinfer.pipeline.batching import Budget


@dataclass(frozen=True)
class Sample:
    """Rows of the job for the gate."""

    table: pa.Table
    """With the step's input columns, and the label's where there is one."""
    whole: bool
    """Whether these are all rows of the job."""
    digest: str = ""
    """Of what says which rows they are; empty where that isn't known, and nothing about them is remembered."""


@dataclass(frozen=True)
class JobRows:
    """What there is to measure on."""

    first: pa.Table | None
    """The first window; None for a job without rows."""
    count: int
    """Rows of the job for one worker."""
    sample: Callable[[int], Sample | None]
    """At most so many rows, spread over the job; None where there are none. Read when asked for."""
    calls: int = 1
    """That will be made at a time."""

    @property
    def of_a_call(self) -> int:
        """Rows that each of the calls at a time has to answer."""
        return -(-self.count // self.calls)


@dataclass
class Comparison:
    """The verdicts of one job's gate. Full precision answers the sample once, whatever it is compared with.

    Args:
        engine: that `load` loads at a precision.
        step: what the job file says of the model.
        gate: what it says of the gate.
        reference: name of full precision.
        load: loads the model at a precision, unless it is so already.
        budget: gives the bounds of a batch, by the loaded engine.
        rows: of the job.
        remembered: verdicts of former runs.
        key: what verdicts depend on beside precision, gate and rows; empty where it isn't known, and nothing is remembered then.
        clock: seconds, never going back.

    """

    engine: Engine
    step: Step
    gate: Gate
    reference: str
    load: Callable[[str], object]
    budget: Callable[[], Budget]
    rows: JobRows
    remembered: Remembered
    key: Mapping[str, Any]
    clock: Callable[[], float]
    spent: float = field(default=0.0, init=False)
    """Seconds so far."""
    _sample: Sample | None = field(default=None, init=False)
    _full: Answers | None = field(default=None, init=False)

    @property
    def begun(self) -> bool:
        """Whether full precision has answered."""
        return self._full is not None

    @property
    def count(self) -> int:
        """Rows that are compared: as many as the gate asks for, or as the job has."""
        return len(sample.table) if (sample := self._rows()) is not None else 0

    def known(self, precision: str) -> Verdict | None:
        """The verdict of a former run on the same rows; None where there is none."""
        key = self._key(precision)
        found = self.remembered.find(key) if key is not None else None
        return Verdict.from_json(found) if found is not None else None

    def verdict(self, precision: str) -> Verdict:
        """Compare a precision with full precision on the sample, unless that was done before with the same rows.

        Raises GateError where the two can't be compared, ModelError where one can't be loaded.
        """
        if (known := self.known(precision)) is not None:
            return known
        sample = self._rows()
        if sample is None:
            raise GateError(
                f"{self.step.name}.gate: no row of the job can be read for a comparison with {self.reference}"
            )
        began = self.clock()
        label = self.gate.label
        inputs = sample.table.drop_columns([label]) if label is not None and not self._is_input(label) else sample.table
        if self._full is None:
            self.load(self.reference)
            self._full = answers(self.engine, inputs, self.budget())
        self.load(precision)
        verdict = self._judged(self._full, answers(self.engine, inputs, self.budget()), sample)
        self.spent += self.clock() - began
        if (key := self._key(precision)) is not None:
            self.remembered.keep(key, verdict.to_json())
        return verdict

    def _rows(self) -> Sample | None:
        if self._sample is None:
            began = self.clock()
            self._sample = self.rows.sample(self.gate.sample)
            self.spent += self.clock() - began
        return self._sample

    def _key(self, precision: str) -> dict[str, Any] | None:
        sample = self._rows()
        if not self.key or sample is None or not sample.digest:
            return None
        gate = self.gate.model_dump(mode="json", exclude={"on_fail"})
        return {**self.key, "candidate": precision, "gate": gate, "rows": sample.digest}

    def _judged(self, full: Answers, given: Answers, sample: Sample) -> Verdict:
        known, other = (pc.is_in(a.positions, value_set=b.positions) for a, b in ((full, given), (given, full)))
        both = full.positions.filter(known)
        label = self.gate.label
        labels = sample.table[label].combine_chunks().take(both) if label is not None else None
        return compare(
            {name: a.filter(known) for name, a in full.outputs.items()},
            {
                name: given.outputs[name].filter(other) if name in given.outputs else a.slice(0, 0)
                for name, a in full.outputs.items()
            },
            self.gate,
            len(sample.table) if sample.whole else max(self.rows.count, len(sample.table)),
            labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels,
            left_out=len(sample.table) - len(full.positions),
            lost=len(full.positions) - len(both),
        )

    def _is_input(self, column: str) -> bool:
        return any(column == c or (not isinstance(c, str) and column in c) for c in self.step.inputs.values())
