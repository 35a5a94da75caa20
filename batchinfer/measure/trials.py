"""A step's model loaded at one precision after the other, on rows of the job: which one the job runs at, and the figures behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchinfer.engines.protocol import Description, Engine
from batchinfer.errors import BatchinferError, DeviceError, GateError, HungError, ModelError, StoppedError
from batchinfer.job.steps import Step
from batchinfer.measure import candidates as policy
from batchinfer.measure.candidates import Candidate, Job
from batchinfer.measure.comparison import Comparison, JobRows
from batchinfer.measure.remembered import Remembered
from batchinfer.measure.timing import Timed, load, one_pace, seconds_for, timed_batches, why_broken
from batchinfer.measure.verdict import Verdict
from batchinfer.pipeline.batching import Budget


@dataclass
class Trials:
    """See `auto` and `asked`; both leave the engine loaded at what they give.

    Args:
        engine: not loaded yet.
        step: what the job file says of the model.
        candidates: what it can be loaded at, the reference first.
        device: where the model runs.
        threads: CPU threads of the worker, which the calls at a time share; one at a time is measured.
        budget: gives the bounds of a batch, by the loaded engine.
        rows: of the job.
        remembered: figures of former runs.
        key: what times depend on beside the candidates; empty where it isn't known, and nothing is remembered then.
        clock: seconds, never going back.

    """

    engine: Engine
    step: Step
    candidates: Sequence[Candidate]
    device: str
    threads: int
    budget: Callable[[], Budget]
    rows: JobRows
    remembered: Remembered
    key: Mapping[str, Any]
    clock: Callable[[], float] = time.perf_counter
    loaded: str | None = field(default=None, init=False)
    _description: Description | None = field(default=None, init=False)
    _load_seconds: float = field(default=0.0, init=False)
    _timing: float = field(default=0.0, init=False)
    """Seconds of timing so far."""
    _paces: dict[str, float] = field(default_factory=dict, init=False)
    """Seconds of a row by precision, as far as they were timed."""

    def __post_init__(self) -> None:
        """The gate, where the job file doesn't say off."""
        self._comparison: Comparison | None = None
        if self.step.gate != "off":
            self._comparison = Comparison(
                self.engine,
                self.step,
                self.step.gate,
                self.candidates[0].name,
                self._load,
                self.budget,
                self.rows,
                self.remembered,
                self.key,
                self.clock,
            )

    def auto(self) -> tuple[Description, dict[str, Any]]:
        """The fastest that passes the gate, and the figures. Without a gate, the fastest of those with 16 bits or more.

        Raises ModelError when full precision can't be loaded.
        """
        reference = self.candidates[0]
        if len(self.candidates) == 1:
            return self._load(reference.name), {}
        figures = self._known() or self._timed()
        row_seconds: dict[str, float] = figures["row_seconds"]
        self._paces = row_seconds
        failed, skipped = dict(figures["failed"]), dict(figures["skipped"])
        measured = {
            "rows_per_second": {name: round(1 / s, 1) for name, s in row_seconds.items()},
            "failed": failed,
            "skipped": skipped,
            **({"known_before": True} if figures.get("known") else {}),
        }
        if not row_seconds:
            return self._load(reference.name), {**measured, "precision": f"{reference.name}: {figures['why']}"}
        job = Job(self.rows.of_a_call, row_seconds[reference.name], figures["load_seconds"])
        eligible, gates = dict(row_seconds), {}
        while True:
            name, why = policy.take(eligible, self.candidates)
            candidate = self._candidate(name)
            verdict, obstacle = self._judged(candidate, eligible[name], job)
            if verdict is not None:
                gates[name] = verdict.to_json()
            if not candidate.gated or (verdict is not None and verdict.passed):
                break
            del eligible[name]
            if verdict is None:
                skipped[name] = obstacle
        description = self._load(name)
        measured |= {"choice": f"{name}: {why}", "gates": gates, "measuring_seconds": round(self.spent, 3)}
        told = gates.get(name) or ({"not_compared": obstacle} if obstacle else None)
        return description, measured | ({"gate": told} if told else {})

    def asked(self, name: str) -> tuple[Description, dict[str, Any]]:
        """A precision that is asked for, and what the gate says of it.

        Raises:
            GateError: it has less than 16 bits and fails the gate, and `on_fail` is refuse.
            ModelError: it can't be loaded.

        """
        comparison = self._comparison
        if comparison is None or name == self.candidates[0].name or self.rows.first is None:
            return self._load(name), {}
        candidate = self._candidate(name)
        if not candidate.gated:
            description = self._load(name)
            return description, {"gate": self._reported(comparison, candidate)}
        gates: dict[str, Any] = {}
        failed: dict[str, str] = {}
        for other in [candidate, *policy.instead(candidate, self.candidates)]:
            if not other.gated:
                try:
                    description = self._load(other.name)
                except ModelError as e:
                    failed[other.name] = str(e)
                    continue
                break
            try:
                verdict = comparison.verdict(other.name)
            except ModelError as e:
                if other is candidate:
                    raise
                failed[other.name] = str(e)
                continue
            gates[other.name] = verdict.to_json()
            if verdict.passed:
                description = self._load(other.name)
                break
            if comparison.gate.on_fail == "refuse":
                raise GateError(verdict.refusal(self.step.name, other.name, self.candidates[0].name))
        else:  # the reference is the last that is tried, and has no gate to fail
            raise ModelError(failed[self.candidates[0].name])
        measured: dict[str, Any] = {"gates": gates, "failed": failed, "measuring_seconds": round(self.spent, 3)}
        if other is not candidate:
            measured["choice"] = f"{other.name}: in place of {name}, which failed the gate"
        return description, measured | ({"gate": gates[other.name]} if other.name in gates else {})

    def job(self) -> Job | None:
        """The job at the precision that is loaded; None where its pace isn't known, and timing it would be too much of the job."""
        assert self.loaded is not None
        if self.loaded not in self._paces:
            began = self.clock()
            most = int(policy.SHARE * self.rows.of_a_call)
            pace = one_pace(self.engine, self.rows.first, self.budget(), most, self.clock)
            self._timing += self.clock() - began
            if pace is None:
                return None
            self._paces[self.loaded] = pace * self.rows.calls / self.calls_of(self.loaded)
        return Job(self.rows.of_a_call, self._paces[self.loaded], self._load_seconds)

    @property
    def spent(self) -> float:
        """Seconds of measuring so far."""
        return self._timing + (self._comparison.spent if self._comparison is not None else 0.0)

    def calls_of(self, name: str) -> int:
        """Calls that are made at a time at a precision: one of a user's module that is compiled, which may keep values while it runs."""
        alone = self.step.engine == "torch" and any(c.compiles for c in self.candidates if c.name == name)
        return 1 if alone else self.rows.calls

    def _candidate(self, name: str) -> Candidate:
        found = next((c for c in self.candidates if c.name == name), None)
        if found is None:
            raise ModelError(
                f"{self.step.name}.precision: {name} isn't possible on {self.device}: write one of "
                f"{', '.join(c.name for c in self.candidates)}, or auto"
            )
        return found

    def _load(self, name: str) -> Description:
        if self.loaded != name or self._description is None:
            self.loaded = None  # a load that fails may leave the engine with no model
            began = self.clock()
            self._description = load(self.engine, self.step, self.device, name, self.threads // self.calls_of(name))
            self.loaded, self._load_seconds = name, self.clock() - began
        return self._description

    def _known(self) -> dict[str, Any] | None:
        """What a former run timed; None where a candidate that it skipped would be timed for this job."""
        found = self.remembered.find(self._times_key) if self.key else None
        if found is None:
            return None
        job = Job(self.rows.of_a_call, found["row_seconds"][self.candidates[0].name], found["load_seconds"])
        skipped = {}
        for candidate in self.candidates:
            if candidate.name in found["row_seconds"] or candidate.name in found["failed"]:
                continue
            why = self._unwanted(candidate) or policy.skipped(candidate, job, found["rows"], found["spent"])
            if why is None:
                return None
            skipped[candidate.name] = why
        return {**found, "skipped": skipped, "known": True}

    @property
    def _times_key(self) -> dict[str, Any]:
        return {**self.key, "candidates": [c.name for c in self.candidates]}

    def _unwanted(self, candidate: Candidate) -> str | None:
        if candidate.gated and self._comparison is None:
            return "gate: off, and precision: auto takes nothing below 16 bits that wasn't compared"
        return policy.outrun(candidate, self.calls_of(candidate.name), self.rows.calls)

    def _timed(self) -> dict[str, Any]:
        """Seconds of a row at each precision, on a few of the job's own batches, kept for the next run."""
        reference = self.candidates[0]
        self._load(reference.name)
        load_seconds = self._load_seconds
        began = self.clock()
        timed = self._batches()
        nothing = {"row_seconds": {}, "failed": {}, "skipped": {}, "load_seconds": load_seconds}
        if timed is None:
            return {**nothing, "why": "the job is too small for measuring to pay"}
        if not timed.payloads:
            return {**nothing, "why": "the job's first rows are too bad for measuring"}
        pace = seconds_for(self.engine, timed, clock=self.clock, warm=True) / timed.rows  # it has just answered them
        row_seconds = {reference.name: max(1e-9, pace)}
        job = Job(self.rows.of_a_call, row_seconds[reference.name], load_seconds)
        failed: dict[str, str] = {}
        skipped: dict[str, str] = {}
        for candidate in policy.order(self.candidates[1:]):
            self._timing = self.clock() - began
            why = self._unwanted(candidate) or policy.skipped(candidate, job, timed.rows, self._timing)
            if why is not None:
                skipped[candidate.name] = why
                continue
            try:
                self._load(candidate.name)
                row_seconds[candidate.name] = self._row_seconds(candidate.name, timed, min(row_seconds.values()))
            except (DeviceError, HungError, StoppedError):
                raise
            except BatchinferError as e:
                if not isinstance(e, ModelError):
                    raise
                failed[candidate.name] = str(e)
            except BaseException as e:  # noqa: BLE001 - the rows are sound at full precision: this one can't do what they need
                failed[candidate.name] = why_broken(e)
        self._timing = self.clock() - began
        if self.key and (len(row_seconds) > 1 or failed):
            figures = {"row_seconds": row_seconds, "failed": failed, "load_seconds": load_seconds}
            self.remembered.keep(self._times_key, {**figures, "rows": timed.rows, "spent": self._timing})
        return {"row_seconds": row_seconds, "failed": failed, "skipped": skipped, "load_seconds": load_seconds}

    def _batches(self) -> Timed | None:
        """What is timed, at most so much that full precision can see it twice before its pace is known, and another as often."""
        return timed_batches(self.engine, self.rows.first, self.budget(), int(policy.SHARE * self.rows.of_a_call / 4))

    def _row_seconds(self, name: str, timed: Timed, least: float) -> float:
        """Of each of the usual calls at a time: one call alone does the work of all of them."""
        share = self.calls_of(name) / self.rows.calls
        seconds = seconds_for(self.engine, timed, bound=least * share * timed.rows, clock=self.clock)
        return max(1e-9, seconds / share / timed.rows)

    def _judged(self, candidate: Candidate, row_seconds: float, job: Job) -> tuple[Verdict | None, str]:
        """The gate's verdict on a timed candidate; None and why where there is none."""
        comparison = self._comparison
        if comparison is None or candidate is self.candidates[0]:
            return None, ""
        if (known := comparison.known(candidate.name)) is not None:
            return known, ""
        why = policy.ungated(row_seconds, job, comparison.count, comparison.begun, self.spent)
        if why is not None:
            return None, why
        try:
            return comparison.verdict(candidate.name), ""
        except (GateError, ModelError) as e:
            return None, str(e)

    def _reported(self, comparison: Comparison, candidate: Candidate) -> dict[str, Any]:
        """The verdict on a precision of 16 bits that is asked for, which decides nothing, where it costs little of the job."""
        if (known := comparison.known(candidate.name)) is not None:
            return known.to_json()
        load_seconds, began = self._load_seconds, self.clock()
        timed = self._batches()
        if timed is None:
            return {"not_compared": "the job is too small for a comparison to pay"}
        if not timed.payloads:
            return {"not_compared": "the job's first rows are too bad for measuring"}
        seconds = max(1e-9, seconds_for(self.engine, timed, clock=self.clock, warm=True) / timed.rows)
        self._timing = self.clock() - began
        verdict, why = self._judged(candidate, seconds, Job(self.rows.of_a_call, seconds, load_seconds))
        self._load(candidate.name)
        return verdict.to_json() if verdict is not None else {"not_compared": why}
