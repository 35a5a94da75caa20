"""The records of a job: whether each is as it was written, whether one is missing, and whether they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from batchinfer.data import ordinals
from batchinfer.errors import OutputError
from batchinfer.ledger import records
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import account
from batchinfer.measure.settings import Settings
from batchinfer.plan.extension import planned_rows, standing_shards
from batchinfer.plan.fingerprint import digest_of
from batchinfer.plan.generation import Generation
from batchinfer.plan.shards import Shard
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths, number_of
from batchinfer.storage.store import Store
from batchinfer.verify.findings import ADVICE, Finding, Kind

_AGAIN = "run the same command again, which writes it anew"
_TELLS = {
    "jobs": "job8",
    "settings": "output_schema",
    "epochs": "process_start",
    "heartbeats": "beat",
    "closed": "end",
    "cancels": "asked_by",
    "plans": "shards",
    "manifests": "parts",
    "run_results": "state",
}
"""A key that each kind of record has, and no other kind."""


@dataclass
class State:
    """What the sound records say."""

    generations: list[Generation] = field(default_factory=list)
    every: dict[int, tuple[Shard, Generation]] = field(default_factory=dict)
    """The shards of all generations, by number."""
    shards: dict[int, tuple[Shard, Generation]] = field(default_factory=dict)
    """Those that no generation which has ended has replaced."""
    manifest: Manifest | None = None
    """The newest."""
    outputs: dict[int, pa.Schema] = field(default_factory=dict)
    """Output columns by the settings of each generation."""
    results: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def planned(self) -> int:
        """Rows of the job."""
        return planned_rows(self.generations)

    @property
    def open(self) -> Generation | None:
        """The generation that has not ended."""
        ended = self.manifest.generation if self.manifest else 0
        return self.generations[-1] if self.generations and self.generations[-1].number > ended else None


def read(store: Store, job: Job) -> State:
    """Read every record of the job, and compare them with each other."""
    state = State()
    sound = _sound(store, job.paths, state.findings)
    for number in _numbers(sound, job.paths.plan):
        path = job.paths.plan(number)
        generation = Generation.from_json(sound[path])
        state.findings += [_unsound(path, m) for m in _against_job(generation, sound[path]["rows"], state, job)]
        state.generations.append(generation)
        state.every |= {s.number: (s, generation) for s in generation.shards}
        if (settings := sound.get(job.paths.settings_of(number))) is not None:
            state.outputs[number] = Settings.from_json(settings).outputs
    for number in _numbers(sound, job.paths.manifest):
        path = job.paths.manifest(number)
        state.manifest = Manifest.from_json(sound[path])
        state.findings += [_unsound(path, m) for m in _against_plans(state.manifest, number, state, job.paths)]
    ended = [g for g in state.generations if state.manifest is not None and g.number <= state.manifest.generation]
    replaced = {n for g in ended for n in g.replaced}
    state.shards = {n: pair for n, pair in state.every.items() if n not in replaced}
    state.results = sound.get(job.paths.run_results, {})
    return state


def _numbers(there: Iterable[str], spelled: Callable[[int], str]) -> list[int]:
    return sorted(n for path in there if (n := number_of(path)) is not None and path == spelled(n))


def _unsound(path: str, message: str) -> Finding:
    return Finding(Kind.UNSOUND, path, message, ADVICE)


def _sound(store: Store, job: JobPaths, findings: list[Finding]) -> dict[str, dict[str, Any]]:
    """The records by path, without those that are damaged."""
    sound: dict[str, dict[str, Any]] = {}
    there: set[str] = set()
    for folder in (paths.JOBS, job.folder):
        for entry in store.list(folder):
            kind = _kind(entry.path, job)
            if kind is None:
                continue
            there.add(entry.path)
            advice = _AGAIN if entry.path == job.run_results else ADVICE
            try:
                record = records.read(store, entry.path)
            except FileNotFoundError:  # a runner removes what it needs no more
                continue
            except OutputError:
                findings.append(Finding(Kind.ALTERED, entry.path, "edited, cut off or damaged", advice))
                continue
            if _TELLS[kind] in record:
                sound[entry.path] = record
            else:
                findings.append(
                    Finding(Kind.ALTERED, entry.path, "a record of another kind: were files swapped?", advice)
                )
    findings += [Finding(Kind.MISSING, path, why, advice) for path, why, advice in _absent(there, job)]
    return sound


def _kind(path: str, job: JobPaths) -> str | None:
    """Which kind of record a path names; None for any other file."""
    folder, _, name = path.rpartition("/")
    if folder == job.folder:
        return next((k for k in ("settings", "run_results") if name.startswith(k) and name.endswith(".json")), None)
    kind = folder.rpartition("/")[2]
    return kind if kind in _TELLS and number_of(path) is not None else None


def _absent(there: set[str], job: JobPaths) -> Iterator[tuple[str, str, str]]:
    """Records that must be there because of those that are."""
    for spelled in (paths.job_record, job.epoch, job.plan, job.manifest):
        numbers = _numbers(there, spelled)
        for number in sorted(set(range(1, max(numbers, default=0))) - set(numbers)):
            yield spelled(number), "there are later ones", ADVICE
    if job.plan(1) in there and not _numbers(there, job.epoch):
        yield job.epoch(1), "a plan stands, so a runner was there", ADVICE
    for number in _numbers(there, job.manifest):
        if job.plan(number) not in there:
            yield job.plan(number), "a manifest stands, so there was a plan", ADVICE
    if job.manifest(1) in there and job.settings not in there:
        yield job.settings, "a manifest stands, so the settings were pinned", ADVICE
    if job.manifest(1) in there and job.run_results not in there:
        yield job.run_results, "a manifest stands, so a run has ended", _AGAIN


def _against_job(generation: Generation, rows: int, state: State, job: Job) -> Iterator[str]:
    mark = generation.fingerprint
    first = generation.number == 1
    if digest_of(mark.material) != mark.digest or (first and mark.digest != job.fingerprint.digest):
        yield "its fingerprint isn't the one of the job's record: it belongs to another job"
    elif rows != generation.rows:
        yield f"it says {rows:,} rows, and its shards hold {generation.rows:,}"
    elif generation.kind == "retry":
        if not _retries_what_is_there(generation, state):
            yield "its shards don't hold each of the rows that they say they retry once"
    elif first:
        pinned = digest_of([[f.path, f.size, f.version, f.footer] for f in generation.files])
        limit, total = mark.material["input"]["limit"], sum(f.rows for f in generation.files)
        planned = total if limit is None else min(limit, total)
        if pinned != mark.material["input"]["files"]["digest"] or rows != planned:
            yield "its files or rows aren't those of the job's record"
        elif not _covers(generation.shards, 0, rows):
            yield "its shards don't hold each of the first rows of the input once and in order"
    elif generation.kind == "extension":
        begin = max((s.first + s.rows for g in state.generations if g.kind != "retry" for s in g.shards), default=0)
        if rows != sum(f.rows for f in generation.files) or not _covers(generation.shards, begin, begin + rows):
            yield "its shards don't hold each row of its files once and in order, after those of the generations before"
        elif not set(generation.replaced) <= standing_shards(state.generations).keys():
            yield "it replaces parts that don't stand"


def _retries_what_is_there(generation: Generation, state: State) -> bool:
    """Whether each row of a retry is one that an earlier shard holds, and in one of its shards alone."""
    seen: set[int] = set()
    for shard in generation.shards:
        rows: list[int] = []
        for number, text in shard.retries:
            if number not in state.every:
                return False
            held = state.every[number][0].job_rows()
            which = ordinals.decode(text)
            if len(which) and which[-1] >= len(held):
                return False
            rows += held[which].tolist()
        if sorted(rows) != shard.job_rows().tolist() or not seen.isdisjoint(rows):
            return False
        seen.update(rows)
    return True


def _covers(shards: Sequence[Shard], begin: int, end: int) -> bool:
    """Whether the shards hold the job's rows from `begin` to before `end`, each once, in order, and so those of their files."""
    at = begin
    file, in_file = None, 0
    for shard in shards:
        if shard.first != at:
            return False
        for span in shard.ranges:
            if span.file is not file:
                if file is not None and in_file != file.rows:
                    return False
                file, in_file = span.file, 0
            if span.start != in_file or not 0 < span.rows <= file.rows - in_file:
                return False
            in_file += span.rows
            at += span.rows
    return at == end


def _against_plans(manifest: Manifest, number: int, state: State, job: JobPaths) -> Iterator[str]:
    replaced = {n for g in state.generations if g.number <= number for n in g.replaced}
    shards = {n: s for n, (s, g) in state.every.items() if g.number <= number and n not in replaced}
    if manifest.generation != number:
        yield f"it is the manifest of generation {manifest.generation}"
    elif account(manifest.parts) != manifest.counts:
        yield "its counts aren't those of its parts"
    elif any(p.path != job.part(p.shard) for p in manifest.parts):
        yield "it names parts that are none of this job"
    elif shards and sorted(p.shard for p in manifest.parts) != sorted(shards):
        yield "its parts aren't one for each shard of the plans"
    elif any(p.shard in shards and p.retries != shards[p.shard].retries for p in manifest.parts):
        yield "its parts retry other rows than the plans say"
    elif set(manifest.replaced) != replaced:
        yield "it says of other parts than the plans that they are replaced"
    elif _twice(manifest):
        yield "a dead row is settled by two of its parts"


def _twice(manifest: Manifest) -> bool:
    """Whether a row that a part left dead was attempted again by two others, each of which tells what became of it."""
    seen: set[tuple[int, int]] = set()
    for part in manifest.parts:
        if part.counts.not_attempted == 0:
            again = {(shard, n) for shard, text in part.retries for n in ordinals.decode(text).tolist()}
            if not seen.isdisjoint(again):
                return True
            seen |= again
    return False
