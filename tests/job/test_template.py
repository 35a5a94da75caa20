"""The job file of `batchinfer init` loads as it is and shows the defaults."""

from __future__ import annotations

import pytest

from batchinfer.job.load import load_text
from batchinfer.job.schema import SCHEMA_ID
from batchinfer.job.spec import JobSpec
from batchinfer.job.template import render


@pytest.mark.parametrize(
    ("model", "engine", "task", "uri"),
    [
        ("my.module:Model", "python", None, "my.module:Model"),
        ("models/m.pt2", "torch", None, "/jobs/models/m.pt2"),
        ("m.pt", "torch", None, "/jobs/m.pt"),
        ("s3://b/m.ts", "torch", None, "s3://b/m.ts"),
        ("hf:org/name@main", "transformers", "embedding", "hf:org/name@main"),
        ("package:p/dir", "transformers", "embedding", "package:p/dir"),
        ("./minilm/", "transformers", "embedding", "/jobs/minilm"),
    ],
)
def test_the_engine_follows_from_the_model(model, engine, task, uri):
    step = load_text(render("data/", model, "out/"), "job.yaml", "/jobs").steps[0]
    assert (step.engine, step.task, step.uri) == (engine, task, uri)


def test_what_it_shows_are_the_defaults():
    spec = load_text(render("data/", "a:B", "out/"), "job.yaml", "/jobs")
    for section in ("batching", "resources", "retry", "errors", "checkpoint", "run"):
        assert getattr(spec, section) == JobSpec.model_fields[section].default
    assert (spec.carry, spec.steps[0].options, spec.params) == ("all", {}, {})


def test_it_starts_with_the_schema_and_no_line_is_long():
    lines = render("data/", "hf:org/name@main", "out/").splitlines()
    assert lines[0] == f"# yaml-language-server: $schema={SCHEMA_ID}"
    assert max(map(len, lines)) <= 120


def test_parameters_in_the_paths_are_declared():
    text = render("s3://a/${params.date}/", "a:B", "out/${params.date}/${params.part}")
    spec = load_text(text, "job.yaml", "/jobs", {"date": "2026-11-22", "part": "1"})
    assert spec.output.path == "/jobs/out/2026-11-22/1"


@pytest.mark.parametrize(
    "odd", ["a: b", "#x", "true", "12", "it's", 'say "x"', "*.parquet", "a\tb", "[x]", "a#b", "é b\\c"]
)
def test_odd_names_are_quoted(odd):
    text = render(f"/in/{odd}", "a:B", "out/", name=odd, key=odd, inputs={odd: odd}, outputs={"y": "off"})
    spec = load_text(text, "job.yaml", "/jobs")
    assert (spec.name, spec.input.path, spec.input.key) == (odd, f"/in/{odd}", odd)
    assert (spec.steps[0].inputs, spec.steps[0].outputs["y"].column) == ({odd: odd}, "off")


def test_a_key_is_carried_through():
    assert load_text(render("in/", "a:B", "out/", key="id"), "job.yaml", "/jobs").carry == "key"
