"""Who is told of a job's runs: what a job file may say of it, and what of that is shown and recorded."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from batchinfer.job.document import parse
from batchinfer.job.schema import json_schema

LINEAGE = """
report:
  html: false
  openlineage:
    transport:
      type: kafka
      config: {bootstrap.servers: "broker:9092", sasl.mechanism: PLAIN, sasl.password: "${KAFKA_SECRET}"}
      topic: lineage
    namespace: ${SPACE}
    timeout: 2s
  mlflow: {tracking_uri: "https://mlflow:5000", experiment: "${EXPERIMENT}", tags: {team: search, year: 2026}}
"""


def test_the_schema_and_the_loader_take_the_same(good, read):
    spec = read(good() + LINEAGE, KAFKA_SECRET="opaque-7f3a9c", SPACE="production", EXPERIMENT="nightly")
    assert spec.report.openlineage.transport["config"]["sasl.password"] == "opaque-7f3a9c"
    assert (spec.report.openlineage.namespace, spec.report.openlineage.timeout) == ("production", 2.0)
    assert spec.report.mlflow.tags == {"team": "search", "year": 2026}
    schema = json_schema()
    assert list(Draft202012Validator(schema).iter_errors(parse(good() + LINEAGE, "job.yaml").value)) == []
    for name in ("Report", "OpenLineage", "MlflowRun"):
        assert all("description" in value for value in schema["$defs"][name]["properties"].values()), name


def test_nobody_else_is_told_unless_variables_say_so(good, read):
    report = read(good()).report
    assert (report.html, report.openlineage, report.mlflow) == (True, "auto", "off")


def test_names_that_come_of_the_environment_are_shown_and_what_leads_there_is_hidden(good, read):
    spec = read(good() + LINEAGE, KAFKA_SECRET="opaque-7f3a9c", SPACE="production", EXPERIMENT="nightly")
    assert spec.secrets.hide("production nightly opaque-7f3a9c") == "production nightly [hidden]"
    assert "opaque-7f3a9c" not in repr(spec)
    assert "opaque-7f3a9c" not in str(spec.written.to_json())


@pytest.mark.parametrize(
    ("section", "where", "says"),
    [
        ("openlineage: on", "report.openlineage", "write auto, off or a mapping"),
        ("openlineage: {url: a, transport: {type: http}}", "report.openlineage", "not both"),
        ("openlineage: {transport: {url: a}}", "report.openlineage", "needs a type"),
        ("openlineage: {timeout: never}", "report.openlineage.timeout", "duration"),
        ("openlineage: {name: a}", "report.openlineage.name", "did you mean namespace?"),
        (
            "openlineage: {transport: {type: http, auth: {apiKey: opaque-7f3a9c}}}",
            "report.openlineage.transport.auth.apiKey",
            "write ${VAR}",
        ),
        (
            "openlineage: {transport: {type: http, auth: {clientSecret: opaque-7f3a9c}}}",
            "report.openlineage.transport.auth.clientSecret",
            "write ${VAR}",
        ),
        ("openlineage: {url: 'https://me:opaque-7f3a9c@there'}", "report.openlineage.url", "write ${VAR}"),
        ("mlflow: {tracking_uri: 'https://me:opaque-7f3a9c@there'}", "report.mlflow.tracking_uri", "write ${VAR}"),
        ("mlflow: true", "report.mlflow", "write off or a mapping"),
        ("mlflow: {tags: {a: [1]}}", "report.mlflow.tags.a", "can't stand here"),
        ("html: 'no'", "report.html", "write true or false"),
    ],
)
def test_mistakes_are_told_with_what_to_write(good, problem, section, where, says):
    found = problem(good() + f"report: {{{section}}}\n")
    assert found.where == where
    assert says in found.message
    assert "opaque-7f3a9c" not in found.message


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("runs", "/jobs/runs"),
        ("/elsewhere", "/elsewhere"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_a_folder_of_mlflows_is_beside_the_job_file(good, read, written, meant):
    assert read(good() + f"report: {{mlflow: {{tracking_uri: '{written}'}}}}\n").report.mlflow.tracking_uri == meant
