"""`Run`: what was done for a job, read from its output alone."""

from __future__ import annotations

import functools
import html
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.errors import OutputError
from batchinfer.ledger import cleanup, epochs, jobs, manifests, parts, records
from batchinfer.ledger.cleanup import Leftover
from batchinfer.ledger.epochs import Standing
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Counts, Part
from batchinfer.run.events import State
from batchinfer.run.generation import GENERATION
from batchinfer.run.policy import verdict
from batchinfer.storage import paths
from batchinfer.storage.store import StorageOptions, Store, is_local, open_store, options_for
from batchinfer.verify.findings import Verification
from batchinfer.verify.output import verify

if TYPE_CHECKING:
    import polars as pl


def open_output(path: str, storage: StorageOptions) -> Store:
    """The store of an output: a URL, or a local path, which may be relative or begin with `~`."""
    if is_local(path):
        path = str(Path(path.removeprefix("file://")).expanduser().absolute())
    return open_store(path, storage, scratch=paths.SCRATCH)


def open_run(path: str | Path, storage: StorageOptions | None = None) -> Run:
    """The job that an output holds, running or ended.

    Raises OutputError where no job of batchinfer wrote there.
    """
    store = open_output(str(path), storage or {})
    job = jobs.current(store)
    if job is None:
        raise OutputError(f"{store.root}: no job of batchinfer has written here")
    return Run(store, job, storage or {})


def verify_output(path: str | Path, storage: StorageOptions | None = None, *, deep: bool = False) -> Verification:
    """See `Run.verify`; works on an output whose records are damaged too. Raises OutputError where no job of batchinfer wrote there."""
    return verify(open_output(str(path), storage or {}), storage, deep=deep)


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
        plan = records.find(self._store, self._job.paths.plan(GENERATION))
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

        fs, _ = fsspec.url_to_fs(self.path, **options_for(self.path, self._storage))
        return ds.dataset([fs._strip_protocol(n) for n in names], filesystem=fs, format="parquet")

    def errors(self) -> pl.DataFrame:
        """The dead letters, in input order. Raises OutputError where a file of them is gone or damaged."""
        import polars as pl

        from batchinfer.data.dead_letters import DEAD_LETTER_SCHEMA

        tables = [self._dead_letters(p.dead_letters, p.counts.dead) for p in self._parts() if p.dead_letters]
        frame = pl.from_arrow(pa.concat_tables([DEAD_LETTER_SCHEMA.empty_table(), *tables]))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def _dead_letters(self, path: str, rows: int) -> pa.Table:
        advice = "put it back as it was, or begin anew with --restart"
        try:
            return pq.read_table(pa.BufferReader(self._store.read(path)))
        except FileNotFoundError as e:
            raise OutputError(
                f"{self.path}/{path}: {rows:,} dead rows stood in this file, and it is gone: {advice}"
            ) from e
        except (OSError, pa.ArrowException) as e:
            raise OutputError(f"{self.path}/{path}: this file of dead letters is damaged ({e}): {advice}") from e

    @property
    def shards(self) -> tuple[int, int]:
        """How many shards are decided, and how many are planned."""
        plan = records.find(self._store, self._job.paths.plan(GENERATION))
        return len(parts.list_shards(self._store, self._job.paths)), 0 if plan is None else len(plan["shards"])

    def runner(self) -> Standing | None:
        """The newest runner of the job and whether it lives, as far as one look tells; None before the first."""
        return epochs.newest(self._store, self._job.paths)

    def clean(self, *, remove: bool = True) -> list[Leftover]:
        """Remove, or only list, what dead runners and former jobs left. Raises LockedError while the job's runner is alive."""
        return (cleanup.clean if remove else cleanup.leftovers)(self._store, self._job)

    def verify(self, *, deep: bool = False) -> Verification:
        """Prove from the files alone that every planned row stands in the output exactly once, or say what speaks against it.

        Args:
            deep: decode every page too, and compare rows and carried columns with the input where it stands.

        Raises:
            StorageError, AccessError: the output can't be read.

        """
        return verify(self._store, self._storage, deep=deep)

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
