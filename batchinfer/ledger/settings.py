"""The settings that the generations of a job run with, pinned by a conditional create."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from batchinfer.ledger import records
from batchinfer.ledger.jobs import Job
from batchinfer.measure.settings import Settings
from batchinfer.plan.fingerprint import Fingerprint
from batchinfer.plan.generation import Generation
from batchinfer.storage.store import Store


def standing(store: Store, job: Job, generation: Generation) -> Settings | None:
    """The generation's settings; a retry whose model is the job's takes over the job's. None: to be measured."""
    own = find(store, job, generation.number)
    if own is not None or generation.number == 1 or _model(generation.fingerprint) != _model(job.fingerprint):
        return own
    first, schema = find(store, job, 1), outputs(store, job, generation.number - 1)
    return None if first is None or schema is None else pin(store, job, generation, replace(first, outputs=schema))


def outputs(store: Store, job: Job, generation: int) -> pa.Schema | None:
    """The output columns with their types by the newest settings up to a generation; None where there are none yet."""
    pinned = (find(store, job, n) for n in range(generation, 0, -1))
    return next((s.outputs for s in pinned if s is not None), None)


def find(store: Store, job: Job, generation: int) -> Settings | None:
    """The settings of a generation; None where they aren't pinned yet."""
    recorded = records.find(store, job.paths.settings_of(generation))
    return Settings.from_json(recorded) if recorded is not None else None


def pin(store: Store, job: Job, generation: Generation, settings: Settings) -> Settings:
    """Make the settings the generation's; the ones that another runner pinned first are adopted."""
    path = job.paths.settings_of(generation.number)
    records.create(store, path, settings.to_json())
    return Settings.from_json(records.read(store, path))


def _model(fingerprint: Fingerprint) -> tuple[object, object]:
    return fingerprint.material["steps"], fingerprint.material["batching"]
