"""What counts as the same job, and the plan's record."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel

from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.engines.protocol import Identity
from batchinfer.job.spec import JobSpec
from batchinfer.job.steps import CombineStep, RulesStep, Step
from batchinfer.plan.fingerprint import Fingerprint, differences, fingerprint
from batchinfer.plan.generation import Generation, first_generation
from batchinfer.plan.plan import Plan, Reading
from batchinfer.plan.shards import Shard

FILES = [InputFile("/in/a.parquet", 10, "1", "f" * 64, 100), InputFile("/in/b.parquet", 20, "2", "e" * 64, 50)]
IDENTITY = Identity("d" * 64, {"model.safetensors": "c" * 64, "code.py": "b" * 64}, {"torch": "2.11"})
JOB: dict[str, Any] = {
    "version": 1,
    "name": "reviews",
    "input": {"path": "/in"},
    "steps": [
        {"engine": "torch", "uri": "/m.pt", "inputs": {"x": "x"}, "outputs": {"y": "y"}},
        {"name": "rules", "rules": {"z": "y + 1"}},
        {"name": "both", "combine": "mean", "inputs": ["y", "z"], "outputs": {"value": "w"}},
    ],
    "output": {"path": "/out"},
}

IN: dict[str, Any] = {
    "input.columns": ["x", "id"],
    "input.where": "x > 1",
    "input.key": "id",
    "input.limit": 5,
    "steps.0.name": "other",
    "steps.0.engine": "transformers",
    "steps.0.task": "embedding",
    "steps.0.inputs": {"x": "z"},
    "steps.0.outputs": {"y": {"column": "y", "type": "float32"}},
    "steps.0.input_format": "arrow",
    "steps.0.precision": "bf16",
    "steps.0.gate": "off",
    "steps.0.when": "x > 1",
    "steps.0.cascade": {"confidence": "x", "answer": "z"},
    "steps.0.errors.on_failure": "skip",
    "steps.0.errors.on_invalid_output": "keep",
    "steps.0.batching.rows": 7,
    "steps.0.batching.tokens": 7,
    "steps.1.name": "other",
    "steps.1.when": "x > 1",
    "steps.1.errors.on_failure": "skip",
    "steps.1.errors.on_invalid_output": "keep",
    "steps.1.rules": {"z": "y + 2"},
    "steps.2.name": "other",
    "steps.2.when": "x > 1",
    "steps.2.errors.on_failure": "skip",
    "steps.2.errors.on_invalid_output": "keep",
    "steps.2.combine": "max",
    "steps.2.inputs": ["z", "y"],
    "steps.2.outputs": {"value": "v"},
    "steps.2.weights": [2, 1],
    "steps.2.labels": ["a", "b"],
    "steps.0.options": {"pooling": "max"},
    "batching.rows": 7,
    "batching.tokens": 7,
    "batching.window": 7,
    "batching.shard": 7,
    "errors.on_invalid_output": "keep",
    "output.carry": "none",
    "output.columns": ["y"],
    "output.step_used": "used",
    "output.compression": "gzip",
}
"""Keys that decide about results, each with another value than the job's."""
OUT: dict[str, Any] = {
    "name": "other",
    "params": {"date": "today"},
    "code": ["/code"],
    "input.path": "/elsewhere",
    "steps.0.uri": "/moved.pt",
    "steps.0.workers": (1, 2),
    "steps.0.cpus": 3,
    "steps.0.gpus": 2.0,
    "steps.0.timeout": 9,
    "resources.executor": "ray",
    "resources.workers": 1,
    "resources.cpus": 3,
    "resources.gpus": 2.0,
    "resources.address": "auto",
    "retry.max_retries": 9,
    "retry.timeout": 9,
    "errors.threshold": -1,
    "errors.on_exceed": "abort",
    "errors.circuit_breaker": False,
    "checkpoint.interval": 60,
    "output.path": "/elsewhere",
    "output.mode": "overwrite",
    "resources.price_per_hour": 2.5,
    "run.max_runtime": 60,
    "run.max_cost": 9.0,
    "run.single_writer": True,
    "run.inputs_changed": "extend",
    "run.on_removed": "keep",
    "cache.path": "/cache",
    "cache.max_bytes": 1000,
    "cache.data": 1000,
    "cache.deduplicate": True,
    "steps.0.cache": False,
    "metadata": {"team": "x"},
    "report.html": False,
    "report.openlineage": "off",
    "report.mlflow": {},
    "storage": {"s3://": {"anon": True}},
}
"""Keys that don't: how and where it runs. Input and model count by their content, wherever they lie."""
SINGLE = {"version"}
"""Keys that have one value only."""


def keys_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in model.model_fields.items():
        if name == "steps":
            for n, step in enumerate((Step, RulesStep, CombineStep)):
                found |= keys_of(step, f"steps.{n}.")
            continue
        kind, key = field.annotation, f"{prefix}{name}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= keys_of(kind, f"{key}.")
        else:
            found.add(key)
    return found


def test_every_key_of_a_job_is_known_to_count_or_not_to() -> None:
    assert keys_of(JobSpec) == IN.keys() | OUT.keys() | SINGLE
    assert not IN.keys() & OUT.keys()


def spec(*changes: tuple[str, Any]) -> JobSpec:
    job = json.loads(json.dumps(JOB))
    for key, value in changes:
        place, *path = job, *key.split(".")
        for name in path[:-1]:
            place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
        place[path[-1]] = value
    return JobSpec.model_validate(job)


def mark(job: JobSpec, files: list[InputFile] = FILES, identity: Identity = IDENTITY) -> Fingerprint:
    return fingerprint(job, files, {s.name: identity for s in job.models})


@pytest.mark.parametrize("key", IN)
def test_a_key_that_decides_about_results_counts_and_is_named(key: str) -> None:
    old, new = mark(spec()), mark(spec((key, IN[key])))
    assert old.digest != new.digest
    lines = differences(old, new)
    assert lines
    assert not any("nothing by name" in line for line in lines)
    if not key.startswith("steps"):
        assert any(line.startswith(f"{key}") for line in lines)


@pytest.mark.parametrize("key", OUT)
def test_a_key_of_how_and_where_it_runs_does_not_count(key: str) -> None:
    assert mark(spec()) == mark(spec((key, OUT[key])))


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (FILES[:1], "input.files.count: 2 → 1"),
        (FILES[::-1], "input.files.digest"),
        ([InputFile("/in/a.parquet", 11, "1", "f" * 64, 100), FILES[1]], "input.files.digest"),
        ([InputFile("/in/a.parquet", 10, "9", "f" * 64, 100), FILES[1]], "input.files.digest"),
        ([InputFile("/in/a.parquet", 10, "1", "0" * 64, 100), FILES[1]], "input.files.digest"),
        ([InputFile("/in/z.parquet", 10, "1", "f" * 64, 100), FILES[1]], "input.files.digest"),
        ([InputFile("/in/a.parquet", 10, "1", "f" * 64, 101), FILES[1]], "input.files.rows: 150 → 151"),
    ],
)
def test_the_pinned_input_counts(files: list[InputFile], line: str) -> None:
    assert any(found.startswith(line) for found in differences(mark(spec()), mark(spec(), files)))


@pytest.mark.parametrize(
    ("identity", "line"),
    [
        (Identity("0" * 64, IDENTITY.files, IDENTITY.packages), "steps.model.digest: dddddddddddd… → 000000000000…"),
        (
            Identity("0" * 64, {**IDENTITY.files, "code.py": "0" * 64}, IDENTITY.packages),
            "steps.model.files.code.py: bbbbbbbbbbbb… → 000000000000…",
        ),
        (Identity("d" * 64, IDENTITY.files, {"torch": "2.12"}), "steps.model.packages.torch: 2.11 → 2.12"),
    ],
)
def test_the_model_its_code_and_its_libraries_count(identity: Identity, line: str) -> None:
    assert differences(mark(spec()), mark(spec(), identity=identity)) == [line]


def test_the_commit_that_a_model_came_from_does_not_count() -> None:
    pinned = Identity(IDENTITY.digest, IDENTITY.files, IDENTITY.packages, "a" * 40)
    assert mark(spec()) == mark(spec(), identity=pinned)


def test_a_default_that_is_written_out_is_the_same_job() -> None:
    assert mark(spec()) == mark(spec(("output.carry", "all")))
    assert mark(spec()) == mark(spec(("steps.0.precision", "auto"), ("batching", {"rows": "auto"})))


def test_a_fingerprint_reads_back_without_a_difference() -> None:
    job = spec(
        *(
            (k, v)
            for k, v in IN.items()
            if k not in ("steps.0.engine", "steps.0.cascade", "steps.1.name", "steps.2.name")
        )
    )
    new = mark(job)
    old = Fingerprint.from_json(json.loads(json.dumps(new.to_json())))
    assert old.digest == new.digest
    assert differences(old, new) == ["(nothing by name: the record was written by another version)"]


def test_a_file_name_that_is_no_utf8_has_a_fingerprint() -> None:
    names = [n.decode("utf-8", "surrogateescape") for n in (b"caf\xe9", b"caf\xe8")]
    marks = [mark(spec(), [InputFile(n, 1, "1", "f", 1)]) for n in names]
    assert marks[0].digest != marks[1].digest


def test_a_plan_reads_back_from_its_record() -> None:
    hive = InputFile("s3://lake/dt=1/c.parquet", 5, "etag", "a" * 64, 30, (("dt", "1"), ("k", None)))
    shards = (
        Shard(0, 0, (RowRange(FILES[0], 0, 100), RowRange(FILES[1], 0, 20, pruned=True))),
        Shard(1, 120, (RowRange(FILES[1], 20, 30), RowRange(hive, 0, 30))),
        Shard(2, 180, ()),
    )
    reading = Reading(pa.schema([("x", pa.int64())]), None, ("x",), None, 64)
    plan = Plan(spec(), mark(spec()), reading, (*FILES, hive), shards, 35)
    generation = first_generation(plan)
    assert Generation.from_json(json.loads(json.dumps(generation.to_json()))) == generation
    assert (generation.shards, generation.files, generation.window) == (shards, plan.files, 64)
    assert (generation.rows, generation.planned, generation.carried) == (180, 180, {"x": "int64"})
    assert generation.fingerprint == plan.fingerprint


def test_a_secret_among_the_options_is_neither_recorded_nor_shown_and_still_counts() -> None:
    def made(key: str) -> Fingerprint:
        step = {**JOB["steps"][0], "engine": "python", "options": {"remote": {"api_key": key}, "key_count": 3}}
        return fingerprint(JobSpec.model_validate({**JOB, "steps": [step]}), FILES, {"model": IDENTITY})

    old, new = made("hunter2"), made("hunter3")
    assert old.digest != new.digest
    assert "hunter" not in json.dumps(old.to_json()) + "".join(differences(old, new))
    assert old.material["steps"]["model"]["options"]["key_count"] == 3
    assert any("options.remote.api_key" in line for line in differences(old, new))


def test_a_job_in_words_shows_neither_params_nor_options() -> None:
    step = {**JOB["steps"][0], "options": {"auth": "hunter2"}}
    assert "hunter2" not in repr(JobSpec.model_validate({**JOB, "steps": [step], "params": {"p": "hunter2"}}))


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (("steps.0.when", None), False),
        (("steps.0.when", "otherwise"), False),
        (("steps.0.when", "x > 1"), True),
        (("input.where", "x > 1"), True),
        (("steps", JOB["steps"][:2]), True),
    ],
)
def test_the_version_of_what_evaluates_sql_counts_where_there_is_any(
    monkeypatch: pytest.MonkeyPatch, change: tuple[str, Any], counts: bool
) -> None:
    combined = {"name": "both", "combine": "mean", "inputs": ["x", "y"], "outputs": {"value": "w"}}
    job = spec(("steps", [JOB["steps"][0], combined]), change)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.40.0")
    old = mark(job)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.41.0")
    found = differences(old, mark(job))
    assert (old.digest != mark(job).digest) is counts
    assert ("expressions.polars: 1.40.0 → 1.41.0" in found) is counts
