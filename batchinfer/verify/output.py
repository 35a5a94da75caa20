"""The verification of an output."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import pyarrow as pa

from batchinfer.data.scan import rescan
from batchinfer.errors import AccessError, InputError, OutputError, StorageError
from batchinfer.ledger import epochs, jobs, parts, records
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.parts import Counts, Part
from batchinfer.plan.shards import Shard
from batchinfer.storage import paths
from batchinfer.storage.paths import job8_of
from batchinfer.storage.store import StorageOptions, Store
from batchinfer.verify import part, state
from batchinfer.verify.carried import Original
from batchinfer.verify.findings import ADVICE, Finding, Kind, Verification
from batchinfer.verify.part import Checked
from batchinfer.verify.state import State

_THREADS = 4
_PARQUET = {".parquet", ".parq", ".pq"}


def verify(store: Store, options: StorageOptions | None = None, *, deep: bool = False) -> Verification:
    """Prove that every planned row stands in the output exactly once, or say what speaks against it.

    Args:
        store: the output.
        options: fsspec options by URL prefix, with which the input is read.
        deep: decode every page, and compare rows and carried columns with the input where it stands.

    Raises:
        OutputError: no job of batchinfer has written there.
        StorageError, AccessError: the output can't be read.

    """
    return _Verifier(store, options or {}, deep=deep).result()


class _Verifier:
    def __init__(self, store: Store, options: StorageOptions, *, deep: bool) -> None:
        self._store, self._options = store, options
        self._made = Verification(deep)
        self._found = self._made.findings

    def result(self) -> Verification:
        job = self._job()
        if job is None:
            return self._made
        known = state.read(self._store, job)
        self._found += known.findings
        standing = parts.list_shards(self._store, job.paths)
        recorded = {p.shard: p for p in known.manifest.parts} if known.manifest else {}
        original = self._original(job, known)
        shards = [s for n, s in sorted(known.shards.items()) if n in recorded or n in standing]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="batchinfer-verify") as pool:
            checked = list(pool.map(lambda s: self._part(job, known, s, recorded.get(s.number), original), shards))
        for one in checked:
            self._found += one.findings
        self._count(known, checked)
        self._listing(job, known, recorded)
        if known.manifest is None:
            self._unfinished(job, known, standing)
        return self._made

    def _job(self) -> Job | None:
        try:
            job = jobs.current(self._store)
        except OutputError:
            number = records.numbers(self._store, paths.JOBS)[-1]
            message = "edited, cut off or damaged; without it nothing else can be verified"
            self._found.append(Finding(Kind.ALTERED, paths.job_record(number), message, ADVICE))
            return None
        if job is None:
            raise OutputError(f"{self._store.root}: no job of batchinfer has written here")
        return job

    def _original(self, job: Job, known: State) -> Original | None:
        """The input, where it stands as it was planned."""
        if not known.files:
            return None
        try:
            scanned = rescan(known.files, self._options)
        except (InputError, AccessError, StorageError) as e:
            self._made.notes.append(f"the output was not compared with its input: {e}")
            return None
        return Original(scanned, job.fingerprint.material["input"]["where"], known.window, self._options)

    def _part(self, job: Job, known: State, shard: Shard, recorded: Part | None, original: Original | None) -> Checked:
        checked = part.check(self._store, job.paths, shard, recorded)
        if self._made.deep and checked.decision is not None and known.settings is not None:
            checked.findings += self._deep(job.paths.part(shard.number), known.settings.outputs, checked, original)
        checked.data = b""
        return checked

    def _deep(self, path: str, outputs: pa.Schema, checked: Checked, original: Original | None) -> list[Finding]:
        assert checked.decision is not None
        try:
            table = part.decode(checked.data)
        except (pa.ArrowException, OSError, ValueError) as e:
            return [Finding(Kind.UNSOUND, path, f"a page can't be read: {' '.join(str(e).split())}", ADVICE)]
        if len(table) != checked.decision.counts.succeeded:
            message = f"its pages hold {len(table):,} rows, its footer says {checked.decision.counts.succeeded:,}"
            return [Finding(Kind.UNSOUND, path, message, ADVICE)]
        split = len(table.schema) - len(outputs)
        if not pa.schema(list(table.schema)[split:]).equals(outputs):
            return [Finding(Kind.UNSOUND, path, "its output columns aren't those of the settings", ADVICE)]
        if original is None:
            return []
        carried = table.select(table.schema.names[:split])
        try:
            different = list(original.differences(checked.shard, checked.decision, carried))
        except (InputError, AccessError, StorageError) as e:
            self._made.notes.append(f"{path} was not compared with its input: {e}")
            return []
        return [Finding(Kind.DIFFERENT, path, message, ADVICE) for message in different]

    def _count(self, known: State, checked: list[Checked]) -> None:
        made = self._made
        rows = sum((c.decision.counts for c in checked if c.decision), Counts())
        planned = known.planned
        made.rows = Counts(
            planned, rows.succeeded, rows.dead, rows.filtered, planned - rows.planned, truncated=rows.truncated
        )
        made.parts = sum(c.decision is not None for c in checked)
        made.bytes = sum(c.bytes for c in checked)

    def _listing(self, job: Job, known: State, recorded: dict[int, Part]) -> None:
        """What lies there and shouldn't, and the mark of success."""
        success: int | None = None
        expected = {p.path for p in recorded.values()} or {job.paths.part(n) for n in known.shards}
        for entry in self._store.list(paths.DATA):
            if entry.path == paths.SUCCESS:
                success = entry.size
            elif entry.path not in expected and not _is_hidden(entry.path):
                advice = "move it away: readers of data/ take it for a result"
                self._found.append(Finding(Kind.EXTRA, entry.path, _whose(entry.path, job), advice))
        named = {p.dead_letters for p in recorded.values()}
        for entry in self._store.list(paths.DEAD_LETTERS):
            shard = job.paths.shard_of_dead_letters(entry.path)
            # before there is a manifest, some may belong to runners that lost a decision or to undecided shards
            if (shard is None or known.manifest is not None) and entry.path not in named and not _is_hidden(entry.path):
                advice = "batchinfer clean removes it" if job8_of(entry.path) else "move it away"
                self._found.append(Finding(Kind.EXTRA, entry.path, _whose(entry.path, job), advice))
        self._success(known, success)

    def _success(self, known: State, size: int | None) -> None:
        def found(kind: Kind, message: str, advice: str) -> None:
            self._found.append(Finding(kind, paths.SUCCESS, message, advice))

        judged = known.results if known.results.get("state") in ("SUCCEEDED", "PARTIAL") else {}
        verdict = None if known.manifest is None else judged.get("exit_code", known.manifest.verdict)
        if size is not None and verdict != 0:
            why = "the last verdict isn't 0" if known.manifest else "there is no manifest yet"
            found(
                Kind.EXTRA, f"it tells readers that all is well, and {why}", "remove it, or run the same command again"
            )
        elif size is None and verdict == 0:
            found(Kind.MISSING, "the last verdict is 0", "run the same command again, which puts it back")
        elif size:
            found(Kind.ALTERED, f"it should be empty and has {size:,} bytes", "run the same command again")

    def _unfinished(self, job: Job, known: State, standing: set[int]) -> None:
        try:
            runner = epochs.newest(self._store, job.paths)
        except OutputError:  # a damaged record, which is a finding of its own
            runner = None
        rows = self._made.rows
        done = len(standing & known.shards.keys())
        message = (
            f"{done:,} of {len(known.shards):,} shards are decided, {rows.planned - rows.not_attempted:,} of {rows.planned:,} rows"
            if known.shards
            else "nothing is planned yet"
        )
        advice = (
            f"{runner.owner} is at work: verify again when it has ended"
            if runner is not None and runner.state == "alive"
            else "run the same command to finish"
        )
        self._found.append(Finding(Kind.UNFINISHED, job.paths.manifest(1), message, advice))


def _is_hidden(path: str) -> bool:
    """Files such as .DS_Store, which no reader takes for data; some do read hidden Parquet."""
    name = PurePosixPath(path)
    return name.name.startswith(".") and name.suffix not in _PARQUET


def _whose(path: str, job: Job) -> str:
    owner = job8_of(path)
    if owner is None:
        return "no job of batchinfer wrote this file"
    return "no manifest names it" if owner == job.paths.job8 else "it belongs to another job"
