"""What stands in a simulated bucket, as a job's output is made up: jobs, generations, manifests, parts."""

from __future__ import annotations

import json

import pyarrow as pa

from batchinfer.ledger.manifests import Manifest
from batchinfer.plan.generation import Generation
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths, number_of
from batchinfer.testing.simulator.bucket import Bucket
from batchinfer.testing.simulator.shape import Shape


def step_of_chunk(data: bytes) -> str:
    """The step that a chunk is of."""
    metadata = pa.ipc.open_file(pa.py_buffer(data)).schema.metadata
    return str(metadata[b"batchinfer.step"].decode())


class Output:
    """Looks at the bucket itself, past clients, listings and their delays.

    Args:
        bucket: it.
        jobs: the jobs of the history, by the digests of their fingerprints.

    """

    def __init__(self, bucket: Bucket, jobs: dict[str, Shape]) -> None:
        self._bucket, self._jobs = bucket, jobs

    def current(self) -> tuple[int, str, Shape] | None:
        """Number, job8 and shape of the job that the output belongs to."""
        numbers = [n for p in self._bucket.objects if p.startswith(f"{paths.JOBS}/") and (n := number_of(p))]
        if not numbers:
            return None
        record = json.loads(self._bucket.objects[paths.job_record(max(numbers))])
        return max(numbers), record["job8"], self._jobs[record["fingerprint"]["digest"]]

    def generations(self, job8: str) -> list[Generation]:
        """Those of a job that were begun."""
        folder = f"{JobPaths(job8).folder}/plans/"
        found = sorted(p for p in self._bucket.objects if p.startswith(folder))
        return [Generation.from_json(json.loads(self._bucket.objects[p])) for p in found]

    def shape_of(self, generation: Generation) -> Shape:
        """With which model, and which of its rows are special."""
        return self._jobs[generation.fingerprint.digest]

    def manifest(self, job8: str) -> Manifest | None:
        """The newest manifest of a job."""
        folder = f"{JobPaths(job8).folder}/manifests/"
        found = max((p for p in self._bucket.objects if p.startswith(folder)), default=None)
        return None if found is None else Manifest.from_json(json.loads(self._bucket.objects[found]))

    def is_replaced(self, path: str) -> bool:
        """Whether a part of the current job is of a shard that an extension, which has ended, replaced."""
        current = self.current()
        manifest = None if current is None else self.manifest(current[1])
        return (
            current is not None
            and manifest is not None
            and JobPaths(current[1]).shard_of_part(path) in manifest.replaced
        )

    def parts(self) -> set[str]:
        """Everything under data/ but _SUCCESS."""
        return {p for p in self._bucket.objects if p.startswith(f"{paths.DATA}/") and p != paths.SUCCESS}

    def newest(self) -> tuple[int, int]:
        """Number of the job, and of its newest generation; 0 for none."""
        current = self.current()
        return (0, 0) if current is None else (current[0], len(self.generations(current[1])))

    def first_generation(self) -> tuple[dict[int, bytes], Shape]:
        """The parts of the current job's first generation by shard, and its model; what a retry holds depends on what was dead when."""
        current = self.current()
        assert current is not None
        job, first = JobPaths(current[1]), self.generations(current[1])[0]
        numbers = {s.number for s in first.shards}
        found = {job.shard_of_part(p): self._bucket.objects[p] for p in sorted(self.parts())}
        return {n: data for n, data in found.items() if n in numbers and n is not None}, self.shape_of(first)
