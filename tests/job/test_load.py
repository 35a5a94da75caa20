"""The way from a file to a job: paths, the two doors, secrets, and that nothing else is ever raised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.errors import JobFileError
from batchinfer.job.load import from_fields, load, load_text
from batchinfer.job.spec import JobSpec

FIELDS = {
    "version": 1,
    "name": "reviews",
    "input": {"path": "in/"},
    "model": {"engine": "python", "uri": "a.b:C", "inputs": {"x": "x"}, "outputs": {"y": "y"}},
    "output": {"path": "out/"},
}


def test_local_paths_belong_to_the_job_files_folder(tmp_path, good, monkeypatch):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/job.yaml").write_text(
        good(
            ("path: in/", "path: [in/*.parquet, ../data/, /abs/./x, s3://b/../c, '~/d']"),
            ("input:", "code: [., src]\ninput:"),
            ("uri: hf:org/model@main", "uri: ../models/m"),
            ("inputs:", "options: {weights: w.safetensors, images: {root: photos}}\n  inputs:"),
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    spec = load("jobs/job.yaml")
    assert spec.input.path == (
        f"{tmp_path}/jobs/in/*.parquet",
        f"{tmp_path}/data",
        "/abs/x",
        "s3://b/../c",
        "/home/me/d",
    )
    assert spec.output.path == f"{tmp_path}/jobs/out"
    assert spec.code == (f"{tmp_path}/jobs", f"{tmp_path}/jobs/src")
    assert spec.steps[0].uri == f"{tmp_path}/models/m"
    assert spec.steps[0].options == {
        "weights": f"{tmp_path}/jobs/w.safetensors",
        "images": {"root": f"{tmp_path}/jobs/photos"},
    }


@pytest.mark.parametrize("uri", ["hf:org/m@main", "package:p/m", "s3://b/m", "file:///m", "pkg.mod:Class"])
def test_what_names_no_local_path_is_left_alone(good, read, uri):
    text = good(("uri: hf:org/model@main", f"uri: {uri}"), ("inputs:", f"options: {{weights: '{uri}'}}\n  inputs:"))
    step = read(text).steps[0]
    assert (step.uri, step.options["weights"]) == (uri, uri)


def test_a_sibling_of_the_input_with_a_longer_name_is_a_fine_output(good, read):
    assert read(good(("path: out/", "path: in-out/"))).output.path == "/jobs/in-out"


def test_a_semicolon_inside_a_text_of_where_is_fine(good, read):
    assert read(good(("key: id", "where: a = 'x;''y'"))).input.where == "a = 'x;''y'"


def test_python_fields_give_the_same_job_as_a_file(tmp_path):
    text = "\n".join(f"{key}: {value}" for key, value in FIELDS.items()).replace("'", '"')
    assert from_fields(FIELDS, tmp_path) == load_text(text, "job.yaml", tmp_path)


def test_python_fields_may_be_tuples_and_paths(tmp_path):
    spec = from_fields({**FIELDS, "input": {"path": (Path("a"), tmp_path / "b")}}, tmp_path)
    assert spec.input.path == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert FIELDS["input"] == {"path": "in/"}


def test_python_fields_are_refused_in_the_same_words():
    with pytest.raises(JobFileError) as refused:
        from_fields({**FIELDS, "nmae": 1, "retry": {1: 2}, "name": object()})
    assert str(refused.value).splitlines() == [
        "Job(...): name: a Python object can't stand here: write text (the job's name, at most 200 characters)",
        "Job(...): nmae: is an unknown key: did you mean name?",
        "Job(...): retry: has a key that is a Python int: keys are text",
    ]


def test_python_fields_without_an_end_are_refused():
    endless: dict[str, object] = {}
    endless["metadata"] = endless
    with pytest.raises(JobFileError, match="32 levels"):
        from_fields(endless)


CANARY = "canary-5d1f"
STORAGE = 'storage: {"s3://b/": {secret: "${S}", endpoint_url: "${S}", ports: [1, "${S}"]}}\n'


@pytest.mark.parametrize(
    "text",
    [
        STORAGE + "errors: {on_exceed: '${S}', threshold: '${S}'}\nversion: ${S}\n",
        f'storage: {{"s3://b/": {{secret: {CANARY}}}}}',
        f'storage: {{"s3://b/": {CANARY}}}',
        f'storage: {{"s3://b/": {{endpoint_url: "https://me:{CANARY}@host"}}}}',
        f"storage: {CANARY}",
        f"storage: [{CANARY}]",
        f'storage: {{"s3://b/": {{secret: "{CANARY}',
        f'storage: {{"s3://b/": {{secret: "${{X:-{CANARY}}}", a: @{CANARY}}}}}',
        "batching: {rows: '${S}', tokens: 'x${S}'}\nmodel: '${S}'\nname: ['${S}']\ninput: '${S}'",
        "params: {s: '${S}'}\nretry: {max_retries: '${params.s}'}\noutput: {path: 'x/${params.s}/${S}', mode: '${S}'}",
        "model: {engine: '${S}', uri: '${S}', outputs: {a: '${S}', b: '${S}'}, task: '${S}', precision: '${S}'}",
        "input: {where: '${S};', path: ['${S}', '${S}'], limit: '${S}'}\noutput: {path: '${S}'}",
    ],
)
def test_no_secret_is_ever_in_a_message(text):
    with pytest.raises(JobFileError) as refused:
        load_text(
            text, "job.yaml", "/jobs", {}, [f"storage.x.secret={CANARY}", f"--{CANARY}"], {"S": CANARY, "HOME": "/h"}
        )
    error: BaseException | None = refused.value
    while error is not None:
        assert CANARY not in str(error)
        assert CANARY not in repr(error)
        error = error.__cause__ or error.__context__


def test_a_secret_from_the_environment_is_taken_and_not_shown(good, read):
    text = good(
        ("input:", "params: {s: '${S}'}\ninput:"),
        ("output:", 'storage: {"s3://b/": {secret: "${S}", key: "${params.s}", token: anon, anon: false}}\noutput:'),
    )
    spec = read(text, S=CANARY)
    assert spec.storage["s3://b/"] == {"secret": CANARY, "key": CANARY, "token": "anon", "anon": False}
    assert "'secret'" not in repr(spec)


def test_a_secret_by_a_literal_parameter_is_refused(good, problem):
    text = good(
        ("input:", f"params: {{s: {CANARY}}}\ninput:"),
        ("output:", 'storage: {"s3://b/": {password: "${params.s}"}}\noutput:'),
    )
    assert problem(text).where == "storage.s3://b/.password"


def test_loading_imports_nothing_heavy():
    code = (
        "import sys, batchinfer.job.load, batchinfer.job.template;"
        "print([m for m in ('torch', 'ray', 'polars', 'pyarrow', 'rich', 'transformers', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def outcome(load_it):
    """Anything but a job or a `JobFileError` ends the test."""
    try:
        result = load_it()
    except JobFileError as error:
        result = error
    assert isinstance(result, JobSpec) or all(problem.message for problem in result.problems)
    assert isinstance(result, JobSpec) or result.problems


KEYS = sorted(
    {*FIELDS, *JobSpec.model_fields, "path", "engine", "uri", "outputs", "column", "rows", "carry", "interval"}
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["${A}", "${params.p}", "${", "$$", "{{", "~x", "a:B", "s3://x:y@z", "auto", "5s", "1%", "\0", "*"]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from(" \n\t:-[]{}&*!|>'\"%@`#,?~$ab1.<"), max_size=60) | st.text(max_size=60))
def test_any_text_gives_a_job_or_a_job_file_error(text):
    outcome(lambda: load_text(text, "job.yaml", "/jobs", environ={}))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8), st.lists(st.text(max_size=15), max_size=2))
def test_any_structure_gives_a_job_or_a_job_file_error(changes, names):
    outcome(lambda: from_fields({**FIELDS, **changes}))
    outcome(lambda: from_fields({**FIELDS, "model": {**FIELDS["model"], **changes}}))
    text = "\n".join(f"{key}: {value}" for key, value in FIELDS.items()).replace("'", '"')
    sets = [f"{key}.{name}={value}" for key, value in changes.items() for name in names]
    outcome(lambda: load_text(text, "job.yaml", "/jobs", dict.fromkeys(names, "1"), sets, {"A": "1"}))
