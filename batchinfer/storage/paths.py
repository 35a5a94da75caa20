"""Every name below an output, spelled and read back in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass

DATA = "data"
DEAD_LETTERS = "_dead_letter"
STATE = "_batchinfer"
JOBS = f"{STATE}/jobs"
PROBES = f"{STATE}/probes"
SCRATCH = f"{STATE}/scratch"
SUCCESS = f"{DATA}/_SUCCESS"

_OF_JOB = re.compile(r"_batchinfer/([0-9a-f]{8})/")
_PART = re.compile(r"data/part-([0-9]{7,})-([0-9a-f]{8})\.parquet")
_DEAD = re.compile(r"_dead_letter/part-([0-9]{7,})-([0-9a-f]{8})-([0-9a-f]{12})\.parquet")
_RECORD = re.compile(r"([0-9]{4,})\.json")
_CHUNK = re.compile(r"_batchinfer/[0-9a-f]{8}/wip/([0-9]{7,})/([0-9a-f]{12})\.arrow")


def job_record(number: int) -> str:
    """The record of the `number`-th job on this output."""
    return f"{JOBS}/{number:04d}.json"


@dataclass(frozen=True)
class JobPaths:
    """The names that belong to one job."""

    job8: str
    """Eight random hexadecimal digits, new for every job."""

    @property
    def folder(self) -> str:
        """Everything of this job but its parts and dead letters."""
        return f"{STATE}/{self.job8}"

    @property
    def settings(self) -> str:
        """What was measured or first seen."""
        return self.settings_of(1)

    def settings_of(self, generation: int) -> str:
        """The settings that a generation runs with: the job's, or a retry's own, whose model may be another one."""
        return f"{self.folder}/settings.json" if generation == 1 else f"{self.folder}/settings-{generation:04d}.json"

    @property
    def run_results(self) -> str:
        """What the last run did."""
        return f"{self.folder}/run_results.json"

    @property
    def report(self) -> str:
        """The page about the last run."""
        return f"{self.folder}/report.html"

    def epoch(self, number: int) -> str:
        """One start of a runner."""
        return f"{self.folder}/epochs/{number:08d}.json"

    def heartbeat(self, number: int) -> str:
        """The sign of life of that runner."""
        return f"{self.folder}/heartbeats/{number:08d}.json"

    def closed(self, number: int) -> str:
        """The clean end of that runner."""
        return f"{self.folder}/closed/{number:08d}.json"

    def cancel(self, number: int) -> str:
        """The request that this runner end."""
        return f"{self.folder}/cancels/{number:08d}.json"

    def plan(self, generation: int) -> str:
        """The plan of a generation."""
        return f"{self.folder}/plans/{generation:04d}.json"

    def manifest(self, generation: int) -> str:
        """The end of a generation."""
        return f"{self.folder}/manifests/{generation:04d}.json"

    def part(self, shard: int) -> str:
        """The output of a shard."""
        return f"{DATA}/part-{shard:07d}-{self.job8}.parquet"

    def dead_letters(self, shard: int, sha12: str) -> str:
        """The dead rows of a shard, named by the first 12 digits of the file's SHA-256."""
        return f"{DEAD_LETTERS}/part-{shard:07d}-{self.job8}-{sha12}.parquet"

    def chunks(self, shard: int | None = None) -> str:
        """The folder of a shard's chunks, or of all."""
        return f"{self.folder}/wip" if shard is None else f"{self.folder}/wip/{shard:07d}"

    def chunk(self, shard: int, sha12: str) -> str:
        """One chunk, named by the first 12 digits of its SHA-256."""
        return f"{self.chunks(shard)}/{sha12}.arrow"

    def shard_of_part(self, path: str) -> int | None:
        """The shard that a part of this job belongs to; None for anything else."""
        match = _PART.fullmatch(path)
        return int(match[1]) if match and match[2] == self.job8 else None

    def shard_of_dead_letters(self, path: str) -> int | None:
        """The shard that a dead-letter file of this job belongs to; None for anything else."""
        match = _DEAD.fullmatch(path)
        return int(match[1]) if match and match[2] == self.job8 else None

    def shard_of_chunk(self, path: str) -> int | None:
        """The shard that a chunk belongs to; None for anything else."""
        match = _CHUNK.fullmatch(path)
        return int(match[1]) if match and path.startswith(f"{self.folder}/") else None


def job8_of(path: str) -> str | None:
    """The job that a name below an output belongs to; None where it is no job's."""
    match = _PART.fullmatch(path) or _DEAD.fullmatch(path)
    if match:
        return match[2]
    match = _OF_JOB.match(path)
    return match[1] if match else None


def number_of(path: str) -> int | None:
    """The number that a record such as `epochs/00000003.json` is named by; None for any other file."""
    match = _RECORD.fullmatch(path.rpartition("/")[2])
    return int(match[1]) if match else None
