"""A job's input and output as OpenLineage's datasets: their names, columns, and which column comes of which."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import pyarrow as pa
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    dataset_type_dataset,
    datasource_dataset,
    schema_dataset,
)
from openlineage.client.generated.base import DatasetFacet
from openlineage.client.naming.dataset import ABFSS, GCS, S3, DatasetNaming, LocalFileSystem

from batchinfer.data.inputs import InputFile
from batchinfer.data.where import Where
from batchinfer.job.spec import JobSpec
from batchinfer.pipeline.graph import Graph, graph_of
from batchinfer.plan.plan import Plan
from batchinfer.storage import paths
from batchinfer.storage.store import StorageOptions, is_local, options_for

MOST_INPUTS = 100
"""Of a job with more paths, the folders that they are in are its inputs."""
MOST_ORIGINS = 10_000
"""A job where more columns come of more columns doesn't tell of each."""
_GLOB = re.compile(r"[*?\[]")
_ACCOUNT = re.compile(r"(?:^|;)\s*AccountName=([a-z0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Name:
    """What OpenLineage calls a dataset, after its naming convention for files and objects."""

    namespace: str
    name: str
    path: str
    """The folder, or the file, that it stands for: a URL or a local path without its last slash."""

    def holds(self, file: InputFile) -> bool:
        """Whether a file belongs to it."""
        return file.path == self.path or file.path.startswith(f"{self.path}/")


def inputs(spec: JobSpec) -> tuple[Name, ...]:
    """A job's input datasets: a folder or a file each; of a glob the folder above it."""
    given = (spec.input.path,) if isinstance(spec.input.path, str) else spec.input.path
    found = dict.fromkeys(map(_without_glob, given))
    if len(found) > MOST_INPUTS:
        found = dict.fromkeys(path.rpartition("/")[0] for path in found)
    return tuple(_named(path, spec.storage) for path in found)


def predictions(spec: JobSpec) -> Name:
    """The dataset that the predictions are, by the folder that readers are pointed at."""
    return _named(f"{_without_glob(spec.output.path)}/{paths.DATA}", spec.storage)


def dead_letters(spec: JobSpec) -> Name:
    """The dataset of rows that couldn't be predicted."""
    return _named(f"{_without_glob(spec.output.path)}/{paths.DEAD_LETTERS}", spec.storage)


def _without_glob(path: str) -> str:
    scheme, separator, rest = path.removeprefix("file://").rpartition("://")
    segments: list[str] = []
    for segment in rest.split("/"):
        if _GLOB.search(segment):
            break
        segments.append(segment)
    return scheme + separator + ("/".join(segments).rstrip("/") or "/")


def _named(path: str, storage: StorageOptions) -> Name:
    if is_local(path):
        naming: DatasetNaming = LocalFileSystem(posixpath.normpath(path))
        return Name(naming.get_namespace(), naming.get_name(), path)
    parts = urlsplit(path)
    # Not `hostname`, which is in small letters; what stands before an @ is a container's name, as credentials are refused in URLs.
    place, key = parts.netloc, parts.path.strip("/") or "/"
    match parts.scheme:
        case "s3" | "s3a":
            naming = S3(place, key)
        case "gs" | "gcs":
            naming = GCS(place, key)
        case "az" | "abfs" | "abfss" if account := _account(path, place, storage):
            naming = ABFSS(place.partition("@")[0], account, key)
        case scheme:
            return Name(f"{scheme}://{place}", key, path)
    return Name(naming.get_namespace(), naming.get_name(), path)


def _account(path: str, place: str, storage: StorageOptions) -> str | None:
    """The Azure account that a container belongs to, where the URL, the options or the environment name it."""
    if "@" in place:
        return place.partition("@")[2].partition(".")[0]
    options = options_for(path, storage)
    written = _ACCOUNT.search(
        str(options.get("connection_string") or os.environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    )
    found = options.get("account_name") or (written and written[1]) or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    return str(found) if found else None


def facets(name: Name, fields: Sequence[pa.Field] = ()) -> dict[str, DatasetFacet]:
    """What is said of a dataset whatever the job does with it; `fields` are the columns that are known, of which a null's type isn't."""
    source = f"{name.namespace}://" if name.namespace == "file" else name.namespace
    found: dict[str, DatasetFacet] = {
        "dataSource": datasource_dataset.DatasourceDatasetFacet(name=name.namespace, uri=source),
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet("FILE"),
    }
    if fields:
        found["schema"] = schema_dataset.SchemaDatasetFacet(fields=list(_fields(fields)))
    return found


def _fields(fields: Iterable[pa.Field]) -> Iterator[schema_dataset.SchemaDatasetFacetFields]:
    for place, field in enumerate(fields, 1):
        kind = field.type
        while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        inner = list(_fields(kind)) if pa.types.is_struct(kind) else []
        told = None if pa.types.is_null(field.type) else str(field.type)
        yield schema_dataset.SchemaDatasetFacetFields(name=field.name, type=told, ordinal_position=place, fields=inner)


def output_fields(plan: Plan, computed: pa.Schema | None) -> list[pa.Field]:
    """The columns of the predictions; those that are computed have types once `computed` is known."""
    carried = [plan.reading.schema.field(name) for name in plan.reading.carry]
    types = {} if computed is None else {field.name: field.type for field in computed}
    if plan.spec.output.step_used:
        types[plan.spec.output.step_used] = pa.string()
    return [*carried, *(pa.field(name, types.get(name, pa.null())) for name in plan.computed)]


def column_lineage(plan: Plan, of: Sequence[Name]) -> column_lineage_dataset.ColumnLineageDatasetFacet | None:
    """Which column of the predictions comes of which column of the input; None where that would be too much to tell.

    A model looks at all of its inputs for each of its outputs, as far as is known here.
    """
    graph = graph_of(plan.spec)
    origins = {name: {name: "IDENTITY"} for name in plan.reading.carry}
    origins |= {name: found for name, found in _origins(graph).items() if name in graph.written}
    filters = Where(plan.reading.where).columns if plan.reading.where else ()
    if len(of) * (sum(map(len, origins.values())) + len(filters)) > MOST_ORIGINS:
        return None
    return column_lineage_dataset.ColumnLineageDatasetFacet(
        fields={
            column: column_lineage_dataset.Fields(inputFields=[f for n in of for f in _input_fields(n, found)])
            for column, found in origins.items()
        },
        dataset=[f for n in of for f in _input_fields(n, dict.fromkeys(filters, "FILTER"))],
    )


def _input_fields(name: Name, origins: Mapping[str, str]) -> Iterator[column_lineage_dataset.InputField]:
    for column, how in origins.items():
        kind = "DIRECT" if how in ("IDENTITY", "TRANSFORMATION") else "INDIRECT"
        transformation = column_lineage_dataset.Transformation(type=kind, subtype=how)
        yield column_lineage_dataset.InputField(name.namespace, name.name, column, [transformation])


def _origins(graph: Graph) -> dict[str, dict[str, str]]:
    """By computed column, the columns of the input behind it, and how it comes of each: TRANSFORMATION, or CONDITIONAL by a `when` alone."""
    found: dict[str, dict[str, str]] = {}
    for node in graph.nodes:
        own = set(graph.read_from_input(node))
        mine: dict[str, str] = {}
        for column in node.consumes:
            direct = column in node.reads
            behind = {column: "TRANSFORMATION"} if column in own else found.get(column, {})
            for origin, how in behind.items():
                if direct and how == "TRANSFORMATION":
                    mine[origin] = how
                else:
                    mine.setdefault(origin, "CONDITIONAL")
        for column in node.step.computed:
            known = found.setdefault(column, {})
            for origin, how in mine.items():
                if how == "TRANSFORMATION" or origin not in known:
                    known[origin] = how
    return found
