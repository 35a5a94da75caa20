"""The records of a job: whether each is as it was written, whether one is missing, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchinfer.data.inputs import InputFile
from batchinfer.errors import OutputError
from batchinfer.ledger import records
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Counts
from batchinfer.measure.settings import Settings
from batchinfer.plan import record as plans
from batchinfer.plan.fingerprint import digest_of
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
    "plans": "shards",
    "manifests": "parts",
    "run_results": "state",
}
"""A key that each kind of record has, and no other kind."""


@dataclass
class State:
    """What the sound records say."""

    shards: dict[int, Shard] = field(default_factory=dict)
    """Of all plans, by number."""
    files: tuple[InputFile, ...] = ()
    window: int = 1
    manifest: Manifest | None = None
    settings: Settings | None = None
    results: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def planned(self) -> int:
        """Rows of all shards."""
        return sum(s.rows for s in self.shards.values())


def read(store: Store, job: Job) -> State:
    """Read every record of the job, and compare them with each other."""
    state = State()
    sound = _sound(store, job.paths, state.findings)
    plan = sound.get(job.paths.plan(1))
    if plan is not None:
        state.files, state.window = plans.files_from_json(plan), plan["window"]
        state.shards = {s.number: s for s in plans.shards_from_json(plan)}
        state.findings += [_unsound(job.paths.plan(1), m) for m in _against_job(plan, state, job)]
    if (manifest := sound.get(job.paths.manifest(1))) is not None:
        state.manifest = Manifest.from_json(manifest)
        state.findings += [_unsound(job.paths.manifest(1), m) for m in _against_plan(state, job.paths)]
    if (settings := sound.get(job.paths.settings)) is not None:
        state.settings = Settings.from_json(settings)
    state.results = sound.get(job.paths.run_results, {})
    return state


def _unsound(path: str, message: str) -> Finding:
    return Finding(Kind.UNSOUND, path, message, ADVICE)


def _sound(store: Store, job: JobPaths, findings: list[Finding]) -> dict[str, dict[str, Any]]:
    """The records by path, without those that are damaged."""
    known = {job.settings, job.run_results}
    sound: dict[str, dict[str, Any]] = {}
    there: set[str] = set()
    for folder in (paths.JOBS, job.folder):
        for entry in store.list(folder):
            if entry.path not in known and number_of(entry.path) is None:
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
            if _TELLS[entry.path.removesuffix(".json").split("/")[-2 if number_of(entry.path) else -1]] in record:
                sound[entry.path] = record
            else:
                findings.append(
                    Finding(Kind.ALTERED, entry.path, "a record of another kind: were files swapped?", advice)
                )
    findings += [Finding(Kind.MISSING, path, why, advice) for path, why, advice in _absent(there, job)]
    return sound


def _absent(there: set[str], job: JobPaths) -> Iterator[tuple[str, str, str]]:
    """Records that must be there because of those that are."""
    for spelled in (paths.job_record, job.epoch, job.plan, job.manifest):
        numbers = {n for path in there if (n := number_of(path)) is not None and path == spelled(n)}
        for number in sorted(set(range(1, max(numbers, default=0))) - numbers):
            yield spelled(number), "there are later ones", ADVICE
    if job.plan(1) in there and not any(path.startswith(f"{job.folder}/epochs/") for path in there):
        yield job.epoch(1), "a plan stands, so a runner was there", ADVICE
    if job.manifest(1) in there:
        if job.plan(1) not in there:
            yield job.plan(1), "a manifest stands, so there was a plan", ADVICE
        if job.settings not in there:
            yield job.settings, "a manifest stands, so the settings were pinned", ADVICE
        if job.run_results not in there:
            yield job.run_results, "a manifest stands, so a run has ended", _AGAIN


def _against_job(plan: dict[str, Any], state: State, job: Job) -> Iterator[str]:
    material = job.fingerprint.material
    if plan["fingerprint"] != job.fingerprint.digest or digest_of(material) != job.fingerprint.digest:
        yield "its fingerprint isn't the one of the job's record: it belongs to another job"
        return
    pinned = digest_of([[f.path, f.size, f.version, f.footer] for f in state.files])
    limit, total = material["input"]["limit"], sum(f.rows for f in state.files)
    rows = total if limit is None else min(limit, total)
    if pinned != material["input"]["files"]["digest"] or not rows == plan["rows"] == state.planned:
        yield "its files or rows aren't those of the job's record"
    elif not _covers(list(state.shards.values()), rows):
        yield "its shards don't hold each of the first rows of the input once and in order"


def _covers(shards: Sequence[Shard], rows: int) -> bool:
    """Whether the shards hold rows 0 to `rows` of the input, each once, in order."""
    at = 0
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
    return at == rows


def _against_plan(state: State, job: JobPaths) -> Iterator[str]:
    manifest = state.manifest
    assert manifest is not None
    if sum((p.counts for p in manifest.parts), Counts()) != manifest.counts:
        yield "its counts aren't the sum of those of its parts"
    if any(p.path != job.part(p.shard) for p in manifest.parts):
        yield "it names parts that are none of this job"
    elif state.shards and sorted(p.shard for p in manifest.parts) != sorted(state.shards):
        yield "its parts aren't one for each shard of the plan"
