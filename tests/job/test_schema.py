"""The JSON Schema agrees with the loader, and leaves `${…}` alone."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from batchinfer.job.document import parse
from batchinfer.job.schema import SCHEMA_ID, json_schema
from batchinfer.job.template import render

FULL = """
batching: {rows: "${ROWS:-32}", tokens: auto, window: 100, shard: "${params.shard}"}
resources: {executor: "${EXECUTOR}", workers: 2, cpus: auto, gpus: 0.5, address: null}
retry: {max_retries: "${R}", timeout: 5m}
errors: {threshold: 0.1%, on_exceed: abort, circuit_breaker: "${B:-true}"}
checkpoint: {interval: 10}
run: {max_runtime: "${MAX}h", inputs_changed: error}
metadata: {team: search, year: 2026}
storage: {"s3://lake/": {endpoint_url: "${S3_ENDPOINT:-}", anon: false}}
"""


def mistakes(text: str) -> list[str]:
    errors = Draft202012Validator(json_schema()).iter_errors(parse(text, "job.yaml").value)
    return [".".join(map(str, error.absolute_path)) for error in errors]


def test_it_is_a_schema_with_its_own_address():
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == SCHEMA_ID == "https://batchinfer.dev/schema/job.v1.json"
    assert schema["$schema"].endswith("2020-12/schema")


def test_good_files_with_references_in_every_kind_of_place_are_valid(good):
    assert mistakes(good()) == []
    assert mistakes(good() + FULL) == []
    assert mistakes(good(("model:", "steps:"), ("  engine", "- engine"))) == []
    assert (
        mistakes(
            good(("{embedding: embedding}", "{a: {column: b, type: '${T}'}}"), ("task:", "precision: ${P}\n  task:"))
        )
        == []
    )


@pytest.mark.parametrize("model", ["my.module:Model", "model.pt2", "hf:org/name@main"])
def test_the_template_is_valid(model):
    assert mistakes(render("in/", model, "out/")) == []


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (("name: reviews", "nmae: reviews"), ""),
        (("transformers", "tensorflow"), "model.engine"),
        (("key: id", "limit: '5'"), "input.limit"),
        (("key: id", "limit: -1"), "input.limit"),
        (("task:", "precision: $P\n  task:"), "model.precision"),
        (("{embedding: embedding}", "{}"), "model.outputs"),
        (("output:", "steps: []\noutput:"), ""),
        (("model:", "modle:"), ""),
        (("output:", "checkpoint: {interval: 5 parsecs}\noutput:"), "checkpoint.interval"),
        (("output:", "errors: {circuit_breaker: off}\noutput:"), "errors.circuit_breaker"),
    ],
)
def test_a_mistake_is_found_at_its_place(good, edit, place):
    assert place in mistakes(good(edit))


def test_every_key_that_needs_a_word_has_a_description():
    definitions = json_schema()["$defs"]
    for name in ("Input", "Step", "RulesStep", "CombineStep", "StepErrors", "StepBatching", "Batching", "OutputColumn"):
        assert all("description" in value for value in definitions[name]["properties"].values()), name
