"""`${…}`, parameters and `--set`: what values from outside become."""

from __future__ import annotations

import pytest

PARAMS = ("input:", "params: {date: null, rows: 8, share: 0.5, flag: true, text: x, home: '${HOME_DIR:-/h}'}\ninput:")


def test_variables_defaults_and_dollars_are_filled_in_within_longer_text(good, read):
    text = good(("path: in/", "path: 's3://${BUCKET}/${DAY:-none}/${EMPTY:-x}/$$${BUCKET:?needed}/a$'"))
    assert read(text, BUCKET="b", EMPTY="").input.path == "s3://b/none/x/$b/a$"


def test_keys_are_left_as_they_are(good, read):
    text = good(("output:", "metadata: {'${A}': '${A}'}\noutput:"))
    assert read(text, A="v").metadata == {"${A}": "v"}


def test_what_a_variable_holds_is_not_filled_in_again(good, read):
    assert read(good(("name: reviews", "name: ${A}")), A="${B} $$").name == "${B} $$"


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("batching: {rows: '${V}'}", ("batching", "rows", "64", 64)),
        ("batching: {rows: '${V:-32}'}", ("batching", "rows", None, 32)),
        ("batching: {rows: '${V}'}", ("batching", "rows", "auto", "auto")),
        ("resources: {gpus: '${V}'}", ("resources", "gpus", "0.5", 0.5)),
        ("errors: {circuit_breaker: '${V}'}", ("errors", "circuit_breaker", "false", False)),
        ("errors: {threshold: '${V}'}", ("errors", "threshold", "5", 5)),
        ("errors: {threshold: '${V}'}", ("errors", "threshold", "5%", "5%")),
        ("checkpoint: {interval: '${V}'}", ("checkpoint", "interval", "2", 2.0)),
        ("retry: {timeout: '${V:-}'}", ("retry", "timeout", None, None)),
        ("metadata: {m: '${V}'}", None),
    ],
)
def test_a_variable_is_text_unless_only_its_yaml_meaning_fits(good, read, section, value):
    part, key, given, expected = value or ("metadata", "m", "007", "007")
    text = good(("output:", f"{section}\noutput:"))
    spec = read(text, **({} if given is None else {"V": given}))
    found = getattr(spec, part)
    assert (found[key] if isinstance(found, dict) else getattr(found, key)) == expected


def test_a_name_of_digits_stays_text(good, read):
    assert read(good(("name: reviews", "name: ${N}")), N="123").name == "123"


def test_a_variable_in_an_engines_options_is_typed_and_in_storage_only_true_and_false_are(good, read):
    text = good(
        ("inputs:", "options: {max_length: '${N}', pooling: '${P}'}\n  inputs:"),
        ("output:", 'storage: {"s3://": {key: "${N}", anon: "${A:-false}"}}\noutput:'),
    )
    spec = read(text, N="256", P="mean")
    assert spec.steps[0].options == {"max_length": 256, "pooling": "mean"}
    assert spec.storage == {"s3://": {"key": "256", "anon": False}}


def test_a_value_that_is_one_parameter_keeps_its_type(good, read):
    text = good(
        PARAMS, ("output:", "metadata: {a: '${params.rows}', b: '${params.flag}', c: 'n${params.rows}'}\noutput:")
    )
    assert read(text, params={"date": "d"}).metadata == {"a": 8, "b": True, "c": "n8"}


def test_given_parameters_take_the_type_of_their_default(good, read):
    spec = read(good(PARAMS), params={"date": "2026", "rows": "9", "share": "1", "flag": "false", "text": "5"})
    assert spec.params == {"date": "2026", "rows": 9, "share": 1.0, "flag": False, "text": "5", "home": "/h"}
    assert isinstance(spec.params["share"], float)


def test_a_text_parameter_fits_where_a_number_is_wanted_and_the_reverse(good, read):
    text = good(PARAMS, ("key: id", "limit: ${params.date}"), ("name: reviews", "name: ${params.rows}"))
    spec = read(text, params={"date": "10"})
    assert (spec.input.limit, spec.name) == (10, "8")


@pytest.mark.parametrize(
    ("params", "where", "message"),
    [
        ({"date": "d", "rows": "many"}, "params.rows", "whole number"),
        ({"date": "d", "rows": "true"}, "params.rows", "whole number"),
        ({"date": "d", "share": "x"}, "params.share", "a number"),
        ({"date": "d", "flag": "yes"}, "params.flag", "true or false"),
        ({"date": "d", "row": "1"}, "params.row", "did you mean rows?"),
        ({"date": "d", "zzzzz": "1"}, "params.zzzzz", "it has date, rows"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(good, problem, params, where, message):
    found = problem(good(PARAMS), params=params)
    assert found.where == where
    assert message in found.message
    assert found.line is None


def test_a_parameter_for_a_file_that_declares_none_is_refused(good, problem):
    assert "params: {date: null}" in problem(good(), params={"date": "x"}).message


def test_a_default_that_is_not_used_is_not_filled_in(good, read):
    text = good(("input:", "params: {a: '${UNSET}'}\ninput:"))
    assert read(text, params={"a": "${literal}"}).params == {"a": "${literal}"}


def test_an_output_path_takes_harmless_parameters_only(good, read, problem):
    text = good(PARAMS, ("out/", "out/dt=${params.date}/"))
    assert read(text, params={"date": "2026-11-22_a.b=c"}).output.path == "/jobs/out/dt=2026-11-22_a.b=c"
    for date in ["..", ".", "a/b", "", "a b", "x" * 129, "a\n", "é", "s3://x"]:
        found = problem(text, params={"date": date})
        assert found.where == "output.path"
        assert "the parameter date" in found.message


def test_set_replaces_and_adds_values_of_every_type(good, read):
    spec = read(
        good(),
        "input.limit=5",
        "input.path=[a/, s3://b/]",
        "model.precision=fp32",
        "steps.0.options.weights=w.safetensors",
        "errors.circuit_breaker=false",
        "input.key=",
        "name=${N}",
        'storage."s3://my.bucket/".anon=true',
        N="set",
    )
    assert (spec.input.limit, spec.input.path, spec.input.key) == (5, ("/jobs/a", "s3://b/"), None)
    assert (spec.steps[0].precision, spec.steps[0].options) == ("fp32", {"weights": "/jobs/w.safetensors"})
    assert (spec.errors.circuit_breaker, spec.name) == (False, "set")
    assert spec.storage == {"s3://my.bucket/": {"anon": True}}


def test_set_reaches_the_steps_form_by_both_names(good, read):
    text = good(("model:", "steps:"), ("  engine", "- engine"))
    assert read(text, "steps.0.precision=fp32").steps[0].precision == "fp32"
    assert read(text, "model.precision=fp32").steps[0].precision == "fp32"


@pytest.mark.parametrize(
    ("given", "where", "words"),
    [
        ("batching.row=5", "batching.row", "did you mean rows?"),
        ("steps.0.precison=fp32", "model.precison", "did you mean precision?"),
        ("batching.rows=many", "batching.rows", "auto or a whole number from 1"),
        ("name.first=x", "name.first", "holds a single value"),
        ("input.path=[a", "input.path", "never closed"),
        ("input.path=*.parquet", "input.path", "quotes"),
    ],
)
def test_a_mistake_in_set_says_that_it_came_from_there(good, problem, given, where, words):
    found = problem(good(), given)
    assert found.where == where
    assert found.line is None
    assert words in found.message
    assert found.message.endswith("(given by --set)")


@pytest.mark.parametrize("given", ["name", "", "=5", "a..b=1", ".a=1", '"a=1'])
def test_a_malformed_set_shows_how_to_write_it(good, problem, given):
    assert "--set batching.rows=32" in problem(good(), given).message


@pytest.mark.parametrize("index", ["1", "-1", "x", "9" * 5000])
def test_set_does_not_extend_a_list(good, problem, index):
    text = good(("path: in/", "path: [in/]"))
    found = problem(text, f"input.path.{index}=x")
    assert found.where.startswith("input.path.")
    assert "input.path is a list" in found.message
