"""What OpenLineage calls a job's input and output, and which column comes of which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchinfer import Job
from batchinfer.data.inputs import InputFile
from batchinfer.job.spec import JobSpec
from batchinfer.report.lineage import datasets
from tests.run.workplace import Workplace


def spec(path: str | list[str], output: str = "s3://elsewhere/out/", **storage: Any) -> JobSpec:
    return Job(
        name="job",
        input={"path": path},
        model={"engine": "python", "uri": "a:B", "inputs": {"x": "x"}, "outputs": {"y": "y"}},
        output={"path": output},
        storage=storage,
    ).spec


def names(*args: Any, **storage: Any) -> list[tuple[str, str]]:
    return [(name.namespace, name.name) for name in datasets.inputs(spec(*args, **storage))]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/in.parquet", ("file", "/data/in.parquet")),
        ("/data/in/", ("file", "/data/in")),
        ("file:///data/in/", ("file", "/data/in")),
        ("/data/dt=*/part-?.parquet", ("file", "/data")),
        ("/*.parquet", ("file", "/")),
        ("s3://lake/reviews/dt=2026-11-28/", ("s3://lake", "reviews/dt=2026-11-28")),
        ("s3a://Lake/reviews/**/*.parquet", ("s3://Lake", "reviews")),
        ("s3://lake/", ("s3://lake", "/")),
        ("s3://lake/*.parquet", ("s3://lake", "/")),
        ("gs://lake/a/b", ("gs://lake", "a/b")),
        ("gcs://lake/a/b", ("gs://lake", "a/b")),
        ("abfss://box@Account.dfs.core.windows.net/a", ("abfss://box@Account.dfs.core.windows.net", "a")),
        ("az://box/a", ("az://box", "a")),
        ("memory://box/a", ("memory://box", "a")),
    ],
)
def test_datasets_are_called_as_openlineage_says(path: str, expected: tuple[str, str]) -> None:
    assert names(path) == [expected]


def test_an_azure_container_is_named_with_the_account_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [("abfss://box@keeper.dfs.core.windows.net", "a")]
    monkeypatch.setenv("THE_STRING", "DefaultEndpointsProtocol=https;AccountName=keeper;AccountKey=c2VjcmV0")
    assert names("az://box/a", **{"az://box/": {"account_name": "keeper"}}) == expected
    assert names("abfs://box/a", **{"abfs://box/": {"connection_string": "${THE_STRING}"}}) == expected
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "keeper")
    assert names("az://box/a") == expected


def test_each_path_of_a_list_is_a_dataset_and_of_very_many_each_folder() -> None:
    assert names(["/a/1.parquet", "/a/2.parquet", "/b/*", "/b/"]) == [
        ("file", "/a/1.parquet"),
        ("file", "/a/2.parquet"),
        ("file", "/b"),
    ]
    assert names([f"/{n % 2}/{n}.parquet" for n in range(1000)]) == [("file", "/0"), ("file", "/1")]


def test_the_output_is_called_by_the_folder_that_readers_are_pointed_at() -> None:
    job = spec("/in", "s3://lake/out/")
    found = datasets.predictions(job)
    assert (found.namespace, found.name) == ("s3://lake", "out/data")
    assert datasets.dead_letters(job).name == "out/_dead_letter"
    assert datasets.inputs(spec("s3://lake/out/data/"))[0].name == found.name  # another job reads it by the same name


def test_files_belong_to_the_dataset_that_they_are_in() -> None:
    first, second = datasets.inputs(spec(["s3://lake/a/", "s3://lake/ab/*.parquet"]))
    file = InputFile("s3://lake/ab/1.parquet", 1, "", "", 1)
    assert (first.holds(file), second.holds(file)) == (False, True)


def test_nested_columns_are_told_with_their_own() -> None:
    inner = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = datasets.facets(
        datasets.predictions(spec("/in")), [pa.field("images", pa.list_(inner)), pa.field("later", pa.null())]
    )["schema"]
    images, later = schema.fields  # type: ignore[attr-defined]
    assert [(f.name, f.type, f.ordinal_position) for f in images.fields] == [
        ("bytes", "binary", 1),
        ("path", "string", 2),
    ]
    assert (later.name, later.type, later.fields) == ("later", None, [])


STEPS = [
    {"name": "first", "engine": "python", "uri": "doubling:Double", "inputs": {"x": "x"}, "outputs": {"y": "y"}},
    {"name": "ruled", "rules": {"high": "y > 10 AND id > 3"}},
    {
        "name": "large",
        "engine": "python",
        "uri": "doubling:Double",
        "inputs": {"x": "z"},
        "outputs": {"y": "best"},
        "when": "high",
    },
]


def test_columns_are_followed_through_the_steps_to_those_of_the_input(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    workplace = Workplace(tmp_path)
    (tmp_path / "input").mkdir()
    table = pa.table({"id": [1, 2], "x": [1, 2], "z": [1, 2], "old": [1, 2]})
    pq.write_table(table, tmp_path / "input" / "a.parquet")
    plan = Job(
        **workplace.fields(
            steps=STEPS, input={"where": "old > 0"}, output={"columns": ["y", "high", "best"], "carry": ["id"]}
        )
    ).plan()
    facet = datasets.column_lineage(plan, datasets.inputs(plan.spec))
    assert facet is not None

    def told(fields: Any) -> dict[str, str]:
        return {f.field: f"{f.transformations[0].type} {f.transformations[0].subtype}" for f in fields}

    assert {name: told(value.inputFields) for name, value in facet.fields.items()} == {
        "id": {"id": "DIRECT IDENTITY"},
        "y": {"x": "DIRECT TRANSFORMATION"},
        "high": {"x": "DIRECT TRANSFORMATION", "id": "DIRECT TRANSFORMATION"},
        "best": {"z": "DIRECT TRANSFORMATION", "x": "INDIRECT CONDITIONAL", "id": "INDIRECT CONDITIONAL"},
    }
    assert told(facet.dataset) == {"old": "INDIRECT FILTER"}
    many = datasets.inputs(spec([f"/{n}" for n in range(100)])) * 20
    assert datasets.column_lineage(plan, many) is None
