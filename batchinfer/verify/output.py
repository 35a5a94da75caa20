"""The verification of an output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from batchinfer.data import ordinals
from batchinfer.data.scan import rescan
from batchinfer.errors import AccessError, InputError, OutputError, StorageError
from batchinfer.ledger import epochs, jobs, parts, records
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.parts import Part, account
from batchinfer.plan.fingerprint import HIDDEN
from batchinfer.plan.generation import Generation
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
        originals = {
            g.number: self._original(g, [s for s, of in known.shards.values() if of is g]) for g in known.generations
        }
        wanted = [pair for n, pair in sorted(known.shards.items()) if n in recorded or n in standing]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="batchinfer-verify") as pool:
            checked = list(
                pool.map(
                    lambda p: self._part(job, known, p[0], p[1], recorded.get(p[0].number), originals[p[1].number]),
                    wanted,
                )
            )
        for one in checked:
            self._found += one.findings
        self._found += _not_dead(job, checked)
        self._count(known, checked)
        self._listing(job, known, recorded)
        if known.open is not None or known.manifest is None:
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

    def _original(self, generation: Generation, shards: Sequence[Shard]) -> Original | None:
        """What shards of a generation read, where it stands as it was planned."""
        where = generation.fingerprint.material["input"]["where"]
        if where is not None and where.startswith(HIDDEN):
            self._made.notes.append(
                "the output was not compared with its input: `where` is of the environment, and not recorded"
            )
            return None
        try:
            standing = {r.file.path for s in shards for r in s.ranges}
            replaced = {r.file.path for s in generation.shards for r in s.ranges} - standing
            scanned = rescan([f for f in generation.files if f.path not in replaced], self._options)
        except (InputError, AccessError, StorageError) as e:
            self._made.notes.append(f"the output was not compared with its input: {e}")
            return None
        return Original(scanned, where, generation.window, self._options)

    def _part(
        self,
        job: Job,
        known: State,
        shard: Shard,
        generation: Generation,
        recorded: Part | None,
        original: Original | None,
    ) -> Checked:
        checked = part.check(self._store, job.paths, shard, recorded)
        if self._made.deep and checked.decision is not None:
            settings = max((n for n in known.outputs if n <= generation.number), default=0)
            outputs = known.outputs.get(settings)
            checked.findings += self._deep(job.paths.part(shard.number), generation, outputs, checked, original)
        checked.data = b""
        return checked

    def _deep(
        self,
        path: str,
        generation: Generation,
        outputs: pa.Schema | None,
        checked: Checked,
        original: Original | None,
    ) -> list[Finding]:
        assert checked.decision is not None
        counts = checked.decision.counts
        try:
            table = part.decode(checked.data)
        except (pa.ArrowException, OSError, ValueError) as e:
            return [Finding(Kind.UNSOUND, path, f"a page can't be read: {' '.join(str(e).split())}", ADVICE)]
        if len(table) != counts.succeeded:
            message = f"its pages hold {len(table):,} rows, its footer says {counts.succeeded:,}"
            return [Finding(Kind.UNSOUND, path, message, ADVICE)]
        carried = table.select(table.schema.names[: len(generation.carried)])
        made = pa.schema(list(table.schema)[len(generation.carried) :])
        types = {f.name: str(f.type) for f in carried.schema}
        if types != generation.carried or (outputs is not None and not made.equals(outputs)):
            return [Finding(Kind.UNSOUND, path, "its columns aren't those of plan and settings", ADVICE)]
        if original is None or counts.not_attempted:
            return []
        try:
            different = list(original.differences(checked.shard, checked.decision, carried))
        except (InputError, AccessError, StorageError) as e:
            self._made.notes.append(f"{path} was not compared with its input: {e}")
            return []
        return [Finding(Kind.DIFFERENT, path, message, ADVICE) for message in different]

    def _count(self, known: State, checked: list[Checked]) -> None:
        made = self._made
        sound = (
            Part(c.shard.number, "", 0, "", c.decision.counts, None, c.shard.retries) for c in checked if c.decision
        )
        made.rows = account(sound, known.planned)
        made.parts = sum(c.decision is not None for c in checked)
        made.bytes = sum(c.bytes for c in checked)

    def _listing(self, job: Job, known: State, recorded: dict[int, Part]) -> None:
        """What lies there and shouldn't, and the mark of success."""
        success: int | None = None
        expected = {p.path for p in recorded.values()} | {job.paths.part(n) for n in known.shards}
        for entry in self._store.list(paths.DATA):
            if entry.path == paths.SUCCESS:
                success = entry.size
            elif entry.path not in expected and not _is_hidden(entry.path):
                advice = "move it away: readers of data/ take it for a result"
                self._found.append(Finding(Kind.EXTRA, entry.path, _whose(entry.path, job), advice))
        named = {p.dead_letters for p in recorded.values()}
        for entry in self._store.list(paths.DEAD_LETTERS):
            shard = job.paths.shard_of_dead_letters(entry.path)
            # those of shards that no manifest lists yet may be of runners that lost a decision, or of undecided shards
            pending = shard is not None and shard in known.shards and shard not in recorded
            if entry.path not in named and not pending and not _is_hidden(entry.path):
                advice = "batchinfer clean removes it" if job8_of(entry.path) else "move it away"
                self._found.append(Finding(Kind.EXTRA, entry.path, _whose(entry.path, job), advice))
        self._success(known, success)

    def _success(self, known: State, size: int | None) -> None:
        def found(kind: Kind, message: str, advice: str) -> None:
            self._found.append(Finding(kind, paths.SUCCESS, message, advice))

        if known.open is not None and size is None:  # a retry removes it, and puts it back at its end
            return
        judged = known.results if known.results.get("state") in ("SUCCEEDED", "PARTIAL") else {}
        verdict = (
            None
            if known.manifest is None or known.open is not None
            else judged.get("exit_code", known.manifest.verdict)
        )
        if size is not None and verdict != 0:
            why = "there is no manifest yet" if verdict is None else "the last verdict isn't 0"
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
        message, number = "nothing is planned yet", 1
        if known.open is not None:
            number = known.open.number
            shards = {s.number: s.rows for s in known.open.shards}
            done = standing & shards.keys()
            message = (
                f"{len(done):,} of {len(shards):,} shards are decided, {sum(shards[n] for n in done):,} of "
                f"{known.open.rows:,} rows"
            )
        advice = (
            f"{runner.owner} is at work: verify again when it has ended"
            if runner is not None and runner.state == "alive"
            else "run the same command to finish"
        )
        self._found.append(Finding(Kind.UNFINISHED, job.paths.manifest(number), message, advice))


def _not_dead(job: Job, checked: list[Checked]) -> Iterator[Finding]:
    """Parts that attempted again what an earlier part didn't leave dead: such rows would stand in the output twice."""
    dead = {c.shard.number: c.decision.dead for c in checked if c.decision}
    for one in checked:
        for number, text in one.shard.retries if one.decision else ():
            if number in dead and len(np.setdiff1d(ordinals.decode(text), dead[number], assume_unique=True)):
                message = f"it retries rows that the part of shard {number} didn't leave dead"
                yield Finding(Kind.UNSOUND, job.paths.part(one.shard.number), message, ADVICE)


def _is_hidden(path: str) -> bool:
    """Files such as .DS_Store, which no reader takes for data; some do read hidden Parquet."""
    name = PurePosixPath(path)
    return name.name.startswith(".") and name.suffix not in _PARQUET


def _whose(path: str, job: Job) -> str:
    owner = job8_of(path)
    if owner is None:
        return "no job of batchinfer wrote this file"
    return "no manifest names it" if owner == job.paths.job8 else "it belongs to another job"
