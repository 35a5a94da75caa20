"""A run as OpenLineage's events: START, and at its end COMPLETE, FAIL or ABORT."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from typing import Any
from uuid import UUID

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    data_quality_assertions_dataset,
    error_message_run,
    execution_parameters_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    tags_job,
)
from openlineage.client.generated.base import InputDatasetFacet, JobFacet, OutputDatasetFacet, RunFacet

from batchinfer.job.report import OpenLineage
from batchinfer.job.scalar import as_text
from batchinfer.job.spec import JobSpec
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Counts
from batchinfer.measure.settings import Settings
from batchinfer.plan.plan import Plan
from batchinfer.report.lineage import datasets
from batchinfer.run.events import rows_to_json
from batchinfer.run.policy import allowed_dead

VERSION = metadata.version("batchinfer")
PRODUCER = f"https://batchinfer.dev/openlineage/{VERSION}"
_LONGEST_MESSAGE = 10_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """What is known of a run, at its beginning or its end. A run that was refused before it began has no plan, and no rows."""

    spec: JobSpec
    plan: Plan | None = None
    settings: Settings | None = None
    rows: Counts | None = None
    """Of the job, by what became of them; None before the end."""
    manifest: Manifest | None = None
    """What the output holds; None while rows are left."""
    errors: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values about the run that only batchinfer knows."""


@dataclass(frozen=True)
class Identity:
    """By what the job and its place among others are known."""

    namespace: str
    job: str
    parent: parent_run.ParentRunFacet | None
    """The run that this one is a part of."""


def identity(spec: JobSpec, asked: OpenLineage, environ: Mapping[str, str]) -> Identity:
    """What a job is called, as it asks for itself or as OpenLineage's variables have it."""
    namespace = asked.namespace or environ.get("OPENLINEAGE_NAMESPACE") or "default"
    return Identity(namespace, asked.job or spec.name, _parent(environ))


def event(kind: RunState, at: datetime, run_id: UUID, who: Identity, known: Standing) -> RunEvent:
    """One event of a run.

    Args:
        kind: which one.
        at: when it happened, with a time zone.
        run_id: of the run, the same in all of its events.
        who: whose run it is.
        known: what there is to say.

    """
    told = RunEvent(
        eventType=kind,
        eventTime=at.isoformat(),
        run=Run(str(run_id), _run_facets(known, who.parent)),
        job=Job(who.namespace, who.job, _job_facets(known.spec)),
        inputs=_inputs(known),
        outputs=_outputs(known),
        producer=PRODUCER,
    )
    for of in (told.run, told.job, *(told.inputs or ()), *(told.outputs or ())):
        for name in ("facets", "inputFacets", "outputFacets"):
            for facet in (getattr(of, name, None) or {}).values():
                facet._producer = PRODUCER
    return told


def _run_facets(known: Standing, parent: parent_run.ParentRunFacet | None) -> dict[str, RunFacet]:
    found: dict[str, RunFacet] = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(VERSION, "batchinfer", VERSION),
    }
    if known.facts:
        # RunFacet's own schema allows whatever else stands in it.
        found["batchinfer_run"] = RunFacet().with_additional_properties(**known.facts)  # type: ignore[assignment]
    if known.spec.params:
        found["executionParameters"] = execution_parameters_run.ExecutionParametersRunFacet(
            [
                execution_parameters_run.ExecutionParameter(key=name, value=as_text(value))
                for name, value in known.spec.params.items()
            ]
        )
    if parent is not None:
        found["parent"] = parent
    if known.errors:
        message = "\n".join(known.errors)[:_LONGEST_MESSAGE]
        found["errorMessage"] = error_message_run.ErrorMessageRunFacet(message, "PYTHON")
    return found


def _parent(environ: Mapping[str, str]) -> parent_run.ParentRunFacet | None:
    """The run that this one is a part of, as Airflow's provider writes it: `namespace/job/run id`."""
    parent = _triple("OPENLINEAGE_PARENT_ID", environ)
    if parent is None:
        return None
    namespace, name, run_id = parent
    facet = parent_run.ParentRunFacet(parent_run.Run(run_id), parent_run.Job(namespace, name))
    if (root := _triple("OPENLINEAGE_ROOT_PARENT_ID", environ)) is not None:
        namespace, name, run_id = root
        facet.root = parent_run.Root(parent_run.RootRun(run_id), parent_run.RootJob(namespace, name))
    return facet


def _triple(variable: str, environ: Mapping[str, str]) -> tuple[str, str, str] | None:
    text = environ.get(variable, "")
    parts = text.rsplit("/", 2)  # a namespace may be a URL
    try:
        run_id = str(UUID(parts[-1]))
    except ValueError:
        run_id = ""
    if len(parts) == 3 and all(parts) and run_id:
        return parts[0], parts[1], run_id
    if text:
        log.warning("%s is left out: it isn't namespace/job/run id, with a UUID at its end", variable)
    return None


def _job_facets(spec: JobSpec) -> dict[str, JobFacet]:
    pattern = job_type_job.EmissionPattern("EVENT_BASED", "ACCUMULATIVE")
    found: dict[str, JobFacet] = {
        "jobType": job_type_job.JobTypeJobFacet("BATCH", "BATCHINFER", "JOB", emissionPattern=pattern)
    }
    if spec.metadata:
        tags = [tags_job.TagsJobFacetFields(key, as_text(value), "USER") for key, value in spec.metadata.items()]
        found["tags"] = tags_job.TagsJobFacet(tags)
    return found


def _inputs(known: Standing) -> list[InputDataset]:
    names = datasets.inputs(known.spec)
    alone = len(names) == 1
    columns = () if known.plan is None else tuple(known.plan.reading.schema)
    read = {} if known.plan is None else _rows_read(known.plan)
    found = []
    for name in names:
        facets: dict[str, InputDatasetFacet] = {}
        files = [file for file in (known.plan.files if known.plan is not None else ()) if alone or name.holds(file)]
        if files:
            facets["inputStatistics"] = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                rowCount=sum(read[file.path] for file in files),
                size=sum(file.size for file in files),
                fileCount=len(files),
            )
        if known.rows is not None and alone:  # of several it isn't known which one a dead row is of
            facets["dataQualityAssertions"] = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
                [_threshold(known.spec, known.rows)]
            )
        found.append(InputDataset(name.namespace, name.name, facets, facets=datasets.facets(name, columns)))
    return found


def _rows_read(plan: Plan) -> Counter[str]:
    """By file the planned rows that aren't ruled out unread."""
    found: Counter[str] = Counter()
    for shard in plan.shards:
        for one in shard.ranges:
            found[one.file.path] += 0 if one.pruned else one.rows
    return found


def _threshold(spec: JobSpec, rows: Counts) -> data_quality_assertions_dataset.Assertion:
    """The job's bound for rows that can't be predicted, as a test of its input."""
    threshold = spec.errors.threshold
    return data_quality_assertions_dataset.Assertion(
        assertion="dead_rows",
        success=rows.dead <= allowed_dead(threshold, rows.planned),
        severity="error",
        name="errors.threshold",
        description="rows that can't be predicted, of those that were attempted",
        expected=str(threshold),
        actual=str(rows.dead),
    )


def _outputs(known: Standing) -> list[OutputDataset]:
    name, facets, written = datasets.predictions(known.spec), {}, {}
    if known.plan is None:
        facets = datasets.facets(name)
    else:
        computed = known.settings.outputs if known.settings is not None else None
        facets = datasets.facets(name, datasets.output_fields(known.plan, computed))
        lineage = datasets.column_lineage(known.plan, datasets.inputs(known.spec))
        if lineage is not None:
            facets["columnLineage"] = lineage
    if known.rows is not None:
        parts = known.manifest.parts if known.manifest is not None else None
        size, count = (None, None) if parts is None else (sum(p.bytes for p in parts), len(parts))
        written = _statistics(known.rows.succeeded, size, count)
    found = [OutputDataset(name.namespace, name.name, written, facets=facets)]
    if known.rows is not None and known.rows.dead:
        name = datasets.dead_letters(known.spec)
        found.append(
            OutputDataset(name.namespace, name.name, _statistics(known.rows.dead), facets=datasets.facets(name))
        )
    return found


def _statistics(rows: int, size: int | None = None, files: int | None = None) -> dict[str, OutputDatasetFacet]:
    return {"outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rows, size, files)}


def facts(rows: Counts | None, **values: Any) -> dict[str, Any]:
    """JSON values for the facet `batchinfer_run`; those that are None are left out."""
    counted = {} if rows is None else {"rows": rows_to_json(rows)}
    return {**{key: value for key, value in values.items() if value is not None}, **counted}
