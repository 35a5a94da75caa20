"""The figures of a run as Prometheus text, in a file that node_exporter's textfile collector or a sidecar reads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from batchinfer.errors import BatchinferError
from batchinfer.run.events import Event, Finished, Retried, Settled, Started, Ticked, rows_to_json

EVERY_SECONDS = 5.0
"""How often the file is written while a run goes on."""
_SUCCESS = "batchinfer_last_success_timestamp_seconds"


class MetricsFile:
    """A listener that keeps the file. Every figure has the label `job`, the job's name; all are gauges, of the newest run.

    Args:
        path: of the file; it is replaced as a whole.
        name: of the job.
        clock: seconds since 1970.

    """

    def __init__(self, path: str, name: str, clock: Callable[[], float] = time.time) -> None:
        self._path, self._name, self._clock = Path(path), name, clock
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self._began, self._next = clock(), 0.0
        self._planned = 0
        self._set("batchinfer_running", "Whether a run goes on.", 1)
        self._set("batchinfer_start_timestamp_seconds", "When the run began, in seconds since 1970.", self._began)
        if (former := self._former_success()) is not None:
            self._succeeded(former)

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        if isinstance(event, Started):
            self._planned = event.plan.rows
            self._progress(event.decided_rows, 0)
            self._write()
        elif isinstance(event, Settled):
            self._set("batchinfer_workers", "Workers of the run.", event.workers)
        elif isinstance(event, Ticked) and self._clock() >= self._next:
            done = min(self._planned, event.decided_rows + sum(p.in_hand for p in event.progress))
            self._progress(done, sum(p.dead for p in event.progress))
            self._write()
        elif isinstance(event, Retried):
            self._gauge("batchinfer_retries", "Shards tried again in the run.").labels(self._name).inc()
        elif isinstance(event, Finished):
            self._finished(event)

    def failed(self, error: BaseException) -> None:
        """An exception ended the run."""
        code = (
            error.exit_code
            if isinstance(error, BatchinferError)
            else 130
            if isinstance(error, KeyboardInterrupt)
            else 1
        )
        self._ended(code)

    def _finished(self, event: Finished) -> None:
        result = event.result
        self._progress(result.rows.succeeded + result.rows.dead + result.rows.filtered, result.rows.dead)
        rows = self._gauge("batchinfer_rows", "Rows of the job by what became of them.", "state")
        for state, count in rows_to_json(result.rows).items():
            rows.labels(self._name, state).set(count)
        stages = self._gauge("batchinfer_stage_seconds", "Where the time of the run went; stages overlap.", "stage")
        for stage, seconds in result.usage.to_json()["seconds"].items():
            stages.labels(self._name, stage).set(seconds)
        self._ended(result.exit_code)

    def _ended(self, code: int) -> None:
        now = self._clock()
        self._set("batchinfer_running", "Whether a run goes on.", 0)
        self._set("batchinfer_exit_code", "Of the run: 0 done, 2 refused, 3 too many dead rows, 75 resumable.", code)
        self._set("batchinfer_run_seconds", "How long the run took.", now - self._began)
        if code == 0:
            self._succeeded(now)
        self._write()

    def _progress(self, done: int, dead: int) -> None:
        self._set("batchinfer_rows_planned", "Rows of the job.", self._planned)
        self._set("batchinfer_rows_done", "Rows that are finished, as far as the run knows.", done)
        self._set("batchinfer_rows_dead", "Rows found dead in the run so far.", dead)

    def _succeeded(self, at: float) -> None:
        self._set(_SUCCESS, "When a run last ended with exit code 0, in seconds since 1970.", at)

    def _former_success(self) -> float | None:
        """As the file has it so far: a run that fails doesn't take it away."""
        with contextlib.suppress(OSError, ValueError):
            for family in text_string_to_metric_families(self._path.read_text()):
                for sample in family.samples:
                    if sample.name == _SUCCESS and sample.labels.get("job") == self._name:
                        return float(sample.value)
        return None

    def _set(self, name: str, told: str, value: float) -> None:
        self._gauge(name, told).labels(self._name).set(value)

    def _gauge(self, name: str, told: str, *labels: str) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, told, ("job", *labels), registry=self._registry)
        return self._gauges[name]

    def _write(self) -> None:
        self._next = self._clock() + EVERY_SECONDS
        with contextlib.suppress(OSError):  # a full disk is no reason to stop
            write_to_textfile(str(self._path), self._registry)
