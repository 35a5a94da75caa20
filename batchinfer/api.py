"""The doors' one library: `Job`, `Run`, `open_run` and `map` say in Python what the terminal says."""

from __future__ import annotations

import contextlib
import functools
import html
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.errors import BatchinferError, OutputError
from batchinfer.job import load
from batchinfer.job.spec import JobSpec
from batchinfer.ledger import cleanup, epochs, jobs, manifests, parts, records
from batchinfer.ledger.cleanup import Leftover
from batchinfer.ledger.epochs import Standing
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Counts, Part
from batchinfer.plan.plan import Plan, make_plan
from batchinfer.report.results import ResultsFile
from batchinfer.run import runner
from batchinfer.run.events import Event, Listener, State
from batchinfer.run.policy import verdict
from batchinfer.run.stop import StopRequest
from batchinfer.storage import paths
from batchinfer.storage.store import StorageOptions, Store, is_local, open_store

if TYPE_CHECKING:
    import polars as pl


class Job:
    """What is asked: the same as a job file, from YAML or from keyword arguments.

    >>> job = Job.from_yaml("jobs/quickstart.yaml")
    >>> job.plan()
    >>> run = job.run()
    >>> run.results().collect()
    """

    def __init__(self, **fields: Any) -> None:
        """Take the keys of a job file as keyword arguments. Raises JobFileError with every mistake at once."""
        fields.setdefault("version", 1)
        fields.setdefault("name", "job")
        self.spec: JobSpec = load.from_fields(fields)

    @classmethod
    def from_yaml(
        cls, path: str | Path, params: Mapping[str, str] | None = None, set_values: Sequence[str] = ()
    ) -> Job:
        """Load a job file; `params` fill `${params.x}`, `set_values` are overrides such as `steps.0.precision=bf16`.

        Raises JobFileError with every mistake at once.
        """
        return cls.from_spec(load.load(path, params or {}, set_values))

    @classmethod
    def from_spec(cls, spec: JobSpec) -> Job:
        """A job from its validated models."""
        job = cls.__new__(cls)
        job.spec = spec
        return job

    def plan(self) -> Plan:
        """Say what would be done, reading footers only. Raises what `make_plan` raises."""
        return make_plan(self.spec)

    def run(
        self,
        *,
        restart: bool = False,
        listener: Listener | None = None,
        stop: StopRequest | None = None,
        plan: Plan | None = None,
    ) -> Run:
        """Run the job, or go on with it: running twice is resuming.

        A job that ends with dead rows over the threshold, or is interrupted, returns too: see `Run.exit_code`.

        Args:
            restart: remove what a former job left on the output, and begin anew.
            listener: told of every event of the run.
            stop: through which another thread can ask the run to end.
            plan: from `plan()`, to save making it again.

        Raises:
            RefusedError: the job can't run as asked.
            TransientError: another runner is alive, or storage or cluster are away; running again resumes.

        """
        store = _open(self.spec.output.path, self.spec.storage)
        results = ResultsFile(store)

        def listeners(event: Event) -> None:
            results(event)
            if listener is not None:
                listener(event)

        try:
            runner.run(plan or self.plan(), listeners, stop, restart=restart)
        except BaseException as e:
            results.failed(e)
            raise
        return open_run(self.spec.output.path, self.spec.storage)

    def __repr__(self) -> str:
        step = self.spec.steps[0]
        return f"Job({self.spec.name!r}: {self.spec.input.path} → {step.engine} {step.uri} → {self.spec.output.path})"


def open_run(path: str | Path, storage: StorageOptions | None = None) -> Run:
    """The job that an output holds, running or ended.

    Raises OutputError where no job of batchinfer wrote there.
    """
    store = _open(str(path), storage or {})
    job = jobs.current(store)
    if job is None:
        raise OutputError(f"{store.root}: no job of batchinfer has written here")
    return Run(store, job, storage or {})


class Run:
    """What was done for a job so far; reads the output alone, so it shows runs of any process or machine."""

    def __init__(self, store: Store, job: jobs.Job, storage: StorageOptions) -> None:
        self._store, self._job, self._storage = store, job, storage
        self.path = store.root
        self.name = job.name

    @functools.cached_property
    def _manifest(self) -> Manifest | None:
        return manifests.latest(self._store, self._job.paths)

    @property
    def record(self) -> dict[str, Any]:
        """`run_results.json` as it stands; empty before the first run got that far."""
        return records.find(self._store, self._job.paths.run_results) or {}

    @property
    def state(self) -> State:
        """How far the job is. RUNNING stays where a run was killed: `status` tells whether its runner lives."""
        return State(self.record.get("state", State.RUNNING))

    @property
    def exit_code(self) -> int | None:
        """What the last run ended with; None while one goes on."""
        code: int | None = self.record.get("exit_code")
        return code

    @property
    def counts(self) -> Counts:
        """Rows by what became of them, over all runs of the job."""
        if self._manifest is not None:
            return self._manifest.counts
        done = sum((p.counts for p in self._parts()), Counts())
        planned = self._planned()
        return Counts(planned, done.succeeded, done.dead, done.filtered, planned - done.planned, done.truncated)

    def _planned(self) -> int:
        plan = records.find(self._store, self._job.paths.plan(runner.GENERATION))
        return 0 if plan is None else int(plan["rows"])

    def _parts(self) -> list[Part]:
        """The parts of the manifest; before there is one, those that stand, which costs reading them."""
        if self._manifest is not None:
            return list(self._manifest.parts)
        return [
            parts.read(self._store, self._job.paths, n) for n in sorted(parts.list_shards(self._store, self._job.paths))
        ]

    def _part_paths(self) -> list[str]:
        if self._manifest is not None:
            return [p.path for p in self._manifest.parts]
        return [self._job.paths.part(n) for n in sorted(parts.list_shards(self._store, self._job.paths))]

    def results(self) -> pl.LazyFrame:
        """The predictions in input order: through the manifest, or over the parts so far while a run goes on."""
        import polars as pl

        names = [f"{self.path}/{p}" for p in self._part_paths()]
        if not names:
            return pl.LazyFrame()
        if is_local(self.path):
            return pl.scan_parquet(names, glob=False)
        return pl.scan_pyarrow_dataset(self._dataset(names))

    def _dataset(self, names: list[str]) -> Any:
        import fsspec
        import pyarrow.dataset as ds

        chosen = max((p for p in self._storage if self.path.startswith(p)), key=len, default=None)
        options = {k: v for k, v in (self._storage[chosen] if chosen else {}).items() if v not in ("", None)}
        fs, _ = fsspec.url_to_fs(self.path, **options)
        return ds.dataset([fs._strip_protocol(n) for n in names], filesystem=fs, format="parquet")

    def errors(self) -> pl.DataFrame:
        """The dead letters, in input order."""
        import polars as pl

        from batchinfer.data.dead_letters import DEAD_LETTER_SCHEMA

        tables = [
            pq.read_table(pa.BufferReader(self._store.read(p.dead_letters))) for p in self._parts() if p.dead_letters
        ]
        frame = pl.from_arrow(pa.concat_tables([DEAD_LETTER_SCHEMA.empty_table(), *tables]))
        assert isinstance(frame, pl.DataFrame)
        return frame

    @property
    def shards(self) -> tuple[int, int]:
        """How many shards are decided, and how many are planned."""
        plan = records.find(self._store, self._job.paths.plan(runner.GENERATION))
        return len(parts.list_shards(self._store, self._job.paths)), 0 if plan is None else len(plan["shards"])

    def runner(self) -> Standing | None:
        """The newest runner of the job and whether it lives, as far as one look tells; None before the first."""
        return epochs.newest(self._store, self._job.paths)

    def clean(self, *, remove: bool = True) -> list[Leftover]:
        """Remove, or only list, what dead runners and former jobs left. Raises LockedError while the job's runner is alive."""
        return (cleanup.clean if remove else cleanup.leftovers)(self._store, self._job)

    def verdict(self, threshold: int | str) -> int:
        """The exit code that a threshold for dead rows would give."""
        return verdict(self.counts.dead, threshold, self.counts.planned)

    def __repr__(self) -> str:
        counts = self.counts
        return f"Run({self.name!r}: {self.state}, {counts.succeeded} of {counts.planned} rows, {counts.dead} dead, {self.path}/{paths.DATA})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{k.replace('_', ' ')}</th><td>{v:,}</td></tr>"
            for k, v in asdict(self.counts).items()
        )
        return f"<b>{html.escape(self.name)}</b>: {self.state}<br><code>{html.escape(self.path)}/{paths.DATA}</code><table>{rows}</table>"


def map(  # noqa: A001 - the word of the field; used as batchinfer.map
    frame: Any, model: Mapping[str, Any], *, errors: Literal["raise", "null"] = "raise", **sections: Any
) -> Any:
    """Predict the rows of a polars or Arrow frame in memory: the frame with the model's outputs as further columns.

    The same engine, batching and isolation as a job, inline, with a temporary directory as output.

    Args:
        frame: polars DataFrame or pyarrow Table, shape (rows, columns).
        model: the `model` section of a job file.
        errors: what rows that can't be predicted do: raise, or have nulls.
        **sections: further sections of a job file, such as `batching` or `code`.

    Returns:
        A frame of the kind that came in, shape (rows, columns + outputs), in the same order.

    Raises:
        BatchinferError: rows can't be predicted and `errors` is `raise`; or as `Job.run`.

    """
    table = frame if isinstance(frame, pa.Table) else frame.to_arrow()
    index = "__batchinfer_row"
    with tempfile.TemporaryDirectory(prefix="batchinfer-map-") as folder:
        pq.write_table(table.append_column(index, pa.array(range(len(table)), pa.int64())), f"{folder}/input.parquet")
        places = {
            "input": {"path": f"{folder}/input.parquet"},
            "output": {"path": f"{folder}/output", "carry": [index]},
        }
        job = Job(
            name="map",
            model=dict(model),
            **places,
            **{"errors": {"threshold": -1}, "resources": {"executor": "inline"}, **sections},
        )
        run = job.run()
        dead = run.errors()
        if len(dead) and errors == "raise":
            first = dead.row(0, named=True)
            raise BatchinferError(
                f"{len(dead)} of {len(table)} rows can't be predicted; the first is row {first['row']}: {first['error_type']}: {first['message']}"
            )
        if run.exit_code != 0:
            raise BatchinferError("; ".join(run.record.get("errors", [])) or f"the run ended as {run.state}")
        outputs = run.results().collect().to_arrow()
    taken = pa.array([None] * len(table), pa.int64()).to_pylist()
    for at, row in enumerate(outputs[index].to_pylist()):
        taken[row] = at
    outputs = outputs.drop_columns([index]).take(pa.array(taken, pa.int64()))
    for name in outputs.column_names:
        table = table.append_column(name, outputs[name])
    if isinstance(frame, pa.Table):
        return table
    import polars as pl

    return pl.from_arrow(table)


def _open(path: str, storage: StorageOptions) -> Store:
    with contextlib.suppress(OSError):
        if is_local(path):
            path = str(Path(path.removeprefix("file://")).expanduser().absolute())
    return open_store(path, storage, scratch=paths.SCRATCH)
