"""`Run`: what was made for a job, and what can be done with it, from its output alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.api import history
from batchinfer.api.background import Asked
from batchinfer.api.outputs import open_output, writing_to
from batchinfer.api.progress import Progress
from batchinfer.api.results import Results
from batchinfer.api.sample import sample
from batchinfer.api.state import JobState
from batchinfer.errors import OutputError
from batchinfer.job import load
from batchinfer.job.spec import JobSpec
from batchinfer.ledger import cleanup, dead, jobs
from batchinfer.ledger.cleanup import Leftover
from batchinfer.plan.plan import make_plan
from batchinfer.report import reporters
from batchinfer.report.profile import Profile, profile
from batchinfer.report.reporting import report, reported
from batchinfer.report.standing import StandingOutput, standing_output
from batchinfer.run import runner
from batchinfer.run.events import Listener
from batchinfer.run.retrying import Selection
from batchinfer.run.stop import StopRequest
from batchinfer.storage.store import StorageOptions
from batchinfer.verify.findings import Verification
from batchinfer.verify.output import verify

if TYPE_CHECKING:
    import polars as pl

    from batchinfer.api.job import Job
    from batchinfer.report.comparison import Comparison


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
    store = open_output(str(path), storage or {})
    with store.secrets.kept():  # of the input's store too
        return verify(store, storage, deep=deep)


class Run(JobState):
    """What was done for a job so far; reads the output alone, so it shows runs of any process or machine."""

    def results(self) -> pl.LazyFrame:
        """The predictions in input order, retried rows at their places; while a run goes on, of the parts so far."""
        return self._results().frame()

    def dataset(self) -> Any:
        """The same rows as a pyarrow.dataset.Dataset, without reading them; those of retries come last.

        Raises OutputError where a part is gone or damaged.
        """
        return self._results().dataset()

    def sample(self, n: int = 10, seed: int = 0, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Some predicted rows beside their input, in input order: the input's columns, then the outputs.

        Only the row groups that hold them are read. An input column that has the name of an output comes as `<name>_input`.

        Args:
            n: how many; all where there are fewer.
            seed: which; the same rows for the same seed, as long as no row is predicted in between.
            columns: of the input; None for all.

        Raises:
            InputError: the input isn't as it was planned, can't be read, or lacks a column.
            OutputError: a part is gone or damaged.

        """
        import polars as pl

        with self._store.secrets.kept():  # of the input's store too
            frame = pl.from_arrow(sample(self._results(), self._job.paths, n, seed, columns))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def profile(self, columns: Sequence[str] | None = None) -> Profile:
        """The distribution of each column of the predictions, of at most some ten thousand rows: see `report.profile`.

        Args:
            columns: of the output, carried ones too; by default those that the steps computed.

        Raises:
            RefusedError: there is no such column.
            OutputError: a part is gone or damaged.

        """
        return profile(self._store, self.standing().parts, columns)

    def standing(self) -> StandingOutput:
        """The parts whose rows are its results, and the generations that planned them."""
        return standing_output(self._store, self._job)

    def compare(self, other: Run | str | Path, **options: Any) -> Comparison:
        """This run's predictions beside those of another one of the same input: see `batchinfer.compare`, whose options it takes."""
        from batchinfer.api.comparing import compare

        return compare(self, other, **options)

    def _results(self) -> Results:
        return Results.find(self._store, self._storage, self._job.paths)

    def errors(self, *, resolved: bool = False) -> pl.DataFrame:
        """The dead letters, in input order: of each dead row the newest.

        Args:
            resolved: also those of rows that a retry settled; `resolved_by` says by which part.

        Raises:
            OutputError: a file of dead letters is gone or damaged.

        """
        import polars as pl

        letters = history.letters(self._store, self._job.paths)
        frame = pl.from_arrow(letters if resolved else dead.counted(letters))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def retry(
        self,
        *,
        errors: Sequence[str] = (),
        retryable: bool = False,
        job: Job | None = None,
        params: Mapping[str, str] | None = None,
        set_values: Sequence[str] = (),
        progress: Progress = "auto",
        listener: Listener | None = None,
        stop: StopRequest | None = None,
    ) -> Run:
        """Attempt the dead rows again, after the model, its code or values of the input were mended.

        They become a generation of their own: what succeeds comes into data/ and `results()`, what dies again has a new dead
        letter, and nothing that stands is rewritten. The same call resumes a retry that was interrupted.

        Args:
            errors: only rows whose error class or error type is one of these.
            retryable: only rows of which the dead letter says that trying again may help.
            job: as it is now; by default as it was recorded, with `${VAR}` from today's environment.
            params: for the recorded job, on top of its own.
            set_values: overrides for the recorded job, such as `model.options.max_length=128`.
            progress: see `Job.run`.
            listener: told of every event of the run.
            stop: through which another thread can ask the run to end.

        Returns:
            The run as it stands afterwards; see `exit_code`.

        Raises:
            RefusedError: the job has not been run to its end, or is another one than a retry may be of.
            TransientError: another runner is alive, or storage or cluster are away; the same call resumes.

        """
        spec = self.recorded_job(params, set_values) if job is None else job.spec
        selection = Selection(tuple(errors), retryable)

        store = open_output(spec.output.path, spec.storage)

        def work(told: Listener, asked: StopRequest) -> Run:
            def begin(listener: Listener) -> None:
                with spec.secrets.kept():
                    runner.retry(make_plan(spec), selection, listener, asked, surroundings=writing_to(store))

            reporters.telling(spec, store, lambda listener: reported(store, begin, listener), told)
            return open_run(self.path, self._storage)

        return Asked(spec.name, store.root, work, progress, listener, stop).run()

    def report(self, reference: Run | Profile | str | Path | None = None, *, to: str | Path | None = None) -> str:
        """Draw `report.html` of what the output says now, in place of the one that the last run left; gives its path or URL.

        Args:
            reference: whose predictions are shown beside these: a run, a profile, or the path of an output or of a saved profile. By
                default those of the output's run before.
            to: a file of this machine to write in its place, such as for an output that can't be written.

        Raises:
            OutputError: there is nothing to report yet, or the output is damaged.
            StorageError, AccessError: the output can't be read or written.

        """
        from batchinfer.api.drifting import profile_of

        shown = None
        if reference is not None:
            shown = (_name(reference), profile_of(reference, None, self._storage))
        page = report(self._store, self._job.paths, shown).encode("utf-8", "replace")
        if to is not None:
            Path(to).write_bytes(page)
            return str(to)
        self._store.put(self._job.paths.report, page)
        return f"{self.path}/{self._job.paths.report}"

    def recorded_job(self, params: Mapping[str, str] | None = None, set_values: Sequence[str] = ()) -> JobSpec:
        """The job as its record holds it, going to this output.

        Raises OutputError where it couldn't be recorded, JobFileError for what is wrong.
        """
        if self._job.written is None:
            raise OutputError(
                f"{self.path}: the job isn't recorded, since a secret is written out in it or a value that is no JSON: give the job itself "
                "(its job file in place of the output, or job=…)"
            )
        spec = load.from_record(self._job.written, params or {}, set_values)
        output = spec.output.model_copy(update={"path": self.path})
        return spec.model_copy(update={"output": output})

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
        with self._store.secrets.kept():
            return verify(self._store, self._storage, deep=deep)


def _name(reference: Run | Profile | str | Path) -> str:
    """Of what predictions are compared with, for people."""
    if isinstance(reference, Run):
        return reference.path
    return "the reference" if isinstance(reference, Profile) else str(reference)
