"""Each mistake in a job file gives one message, at the place as the user wrote it, that says what to do."""

from __future__ import annotations

import pytest

from batchinfer.errors import JobFileError

PYTHON = [("engine: transformers", "engine: python"), ("uri: hf:org/model@main", "uri: my.model:M")]
NO_TASK = ("  task: embedding\n", "")
TORCH = [("engine: transformers", "engine: torch"), NO_TASK]
TWO_STEPS = [
    ("model:", "steps:"),
    ("  engine", "- engine"),
    ("output:", "- {engine: python, uri: 'a:B', inputs: {x: x}, outputs: {y: y}}\noutput:"),
]

# id: (edits of the good file, place, line, words of the message)
MISTAKES = {
    "unknown key at the top": ([("name:", "nmae: x\nname:")], "nmae", 2, ["unknown key", "did you mean name?"]),
    "unknown key of the model": (
        [("task:", "precison: fp32\n  task:")],
        "model.precison",
        9,
        ["did you mean precision?"],
    ),
    "unknown key like no other": ([("key: id", "key: id\n  zzz: 1")], "input.zzz", 6, ["known here are path, columns"]),
    "missing key": ([("  uri: hf:org/model@main\n", "")], "model.uri", 6, ["is missing", "module:Class"]),
    "missing section": ([("output:\n  path: out/\n", "")], "output", 1, ["is missing", "keys path, carry"]),
    "no model": (
        [("model:", "metadata:"), ("  inputs: {text: text}\n  outputs: {embedding: embedding}\n", "")],
        "model",
        1,
        ["describe the model"],
    ),
    "model and steps": ([("output:", "steps: []\noutput:")], "model", 6, ["model or steps, not both"]),
    "word that isn't one of the choices": (
        [("task:", "precision: bf61\n  task:")],
        "model.precision",
        9,
        ['"bf61"', "fp32-compiled or bf16-compiled", "did you mean bf16?"],
    ),
    "engine that doesn't exist": (
        [("transformers", "tensorflow")],
        "model.engine",
        7,
        ["python, torch, transformers, onnx, openvino, sklearn or mlflow"],
    ),
    "task that doesn't exist": ([("task: embedding", "task: summarise")], "model.task", 9, ["text-classification"]),
    "task that another engine has": (
        [("engine: transformers", "engine: onnx"), ("task: embedding", "task: text-generation")],
        "model.task",
        9,
        ["write engine: transformers"],
    ),
    "version of the future": ([("version: 1", "version: 2")], "version", 1, ["write version: 1"]),
    "number in quotes": ([("key: id", 'limit: "5"')], "input.limit", 5, ['"5"', "a whole number from 0 or null"]),
    "number below the least": (
        [("output:", "batching: {rows: 0}\noutput:")],
        "batching.rows",
        12,
        ["auto or a whole number from 1"],
    ),
    "off is text in YAML 1.2": (
        [("output:", "errors: {circuit_breaker: off}\noutput:")],
        "errors.circuit_breaker",
        12,
        ["true or false"],
    ),
    "duration without a unit that exists": (
        [("output:", "checkpoint: {interval: 5 parsecs}\noutput:")],
        "checkpoint.interval",
        12,
        ["200ms", "6h"],
    ),
    "threshold above a hundred per cent": (
        [("output:", "errors: {threshold: 101%}\noutput:")],
        "errors.threshold",
        12,
        ["0.1%", "-1"],
    ),
    "mapping where text is wanted": (
        [("inputs: {text: text}", "inputs: {text: {a: b}}")],
        "model.inputs.text",
        10,
        ["text or a list of text"],
    ),
    "a timeout of no time": ([("output:", "retry: {timeout: 0s}\noutput:")], "retry.timeout", 12, ["above zero"]),
    "value where a mapping is wanted": ([("output:", "retry: 3\noutput:")], "retry", 12, ["keys max_retries, timeout"]),
    "list with a number in it": ([("path: in/", "path: [in/, 5]")], "input.path.1", 4, ["write text"]),
    "empty path": ([("path: in/", 'path: ""')], "input.path", 4, ["must not be empty"]),
    "empty outputs": ([("{embedding: embedding}", "{}")], "model.outputs", 11, ["must not be empty"]),
    "step name with a space": ([("task:", "name: my model\n  task:")], "model.name", 9, ["letters, digits, _ and -"]),
    "carry the key without a key": (
        [("  key: id\n", ""), ("path: out/", "path: out/\n  carry: key")],
        "output.carry",
        13,
        ["add input.key"],
    ),
    "carry a word": (
        [("path: out/", "path: out/\n  carry: everything")],
        "output.carry",
        14,
        ["none, key, all, a list"],
    ),
    "two outputs with one column": (
        [("{embedding: embedding}", "{a: x, b: {column: x}}")],
        "model.outputs.b",
        11,
        ["same column", "output a"],
    ),
    "output over a carried column": (
        [("path: out/", "path: out/\n  carry: [id, embedding]")],
        "model.outputs.embedding",
        11,
        ["output.carry.1"],
    ),
    "output over the key": (
        [("{embedding: embedding}", "{embedding: id}")],
        "model.outputs.embedding",
        11,
        ["input.key"],
    ),
    "two steps of one name": (TWO_STEPS, "steps.1.name", 12, ["called model too"]),
    "python without a class": ([PYTHON[0], NO_TASK], "model.uri", 8, ["module:Class"]),
    "transformers without a task": ([NO_TASK], "model.task", 6, ["is missing", "embedding"]),
    "task for another engine": (PYTHON, "model.task", 9, ["takes no task"]),
    "input format for another engine": (
        [*TORCH, ("inputs:", "input_format: arrow\n  inputs:")],
        "model.input_format",
        9,
        ["for the python engine"],
    ),
    "more than one worker inline": (
        [("output:", "resources: {executor: inline, workers: 2}\noutput:")],
        "resources",
        12,
        ["inline runs one worker"],
    ),
    "secret in the file": (
        [("output:", 'storage:\n  "s3://b/":\n    client: {secret_key: hunter2}\noutput:')],
        "storage.s3://b/.client.secret_key",
        14,
        ["${VAR}"],
    ),
    "secret as a default": (
        [("output:", 'storage:\n  "s3://b.c/": {token: "${T:-hunter2}"}\noutput:')],
        'storage."s3://b.c/".token',
        13,
        ["${VAR}"],
    ),
    "password in a URL": (
        [("path: in/", "path: https://me:hunter2@host/x.parquet")],
        "input.path",
        4,
        ["under storage"],
    ),
    "output is the input": ([("path: out/", "path: ./in")], "output.path", 13, ["another directory"]),
    "output inside the input": ([("path: out/", "path: in/../in/out")], "output.path", 13, ["another directory"]),
    "input inside the output": (
        [("path: in/", "path: s3://b/x/in"), ("path: out/", "path: s3://b/x/")],
        "output.path",
        13,
        ["another directory"],
    ),
    "second statement in where": (
        [("key: id", "where: a > 1; drop table x")],
        "input.where",
        5,
        ["remove the semicolon"],
    ),
    "empty where": ([("key: id", "where: ''")], "input.where", 5, ["remove the key"]),
    "input given twice": ([("path: in/", "path:\n  - in/\n  - ./in")], "input.path.1", 6, ["same as input.path.0"]),
    "jinja in quotes": ([("path: out/", "path: 'out/{{ ds }}'")], "output.path", 13, ["${VAR} or ${params.name}"]),
    "jinja without quotes": ([("path: out/", "path: {{ ds }}")], "", 13, ["${NAME}, never {{"]),
    "variable that isn't set": (
        [("path: out/", "path: out/${DATE}")],
        "output.path",
        13,
        ["DATE is not set", "${DATE:-default}"],
    ),
    "variable with a message": (
        [("path: out/", "path: out/${DATE:?the day to run}")],
        "output.path",
        13,
        ["the day to run"],
    ),
    "malformed reference": ([("path: out/", "path: out/${DATE ")], "output.path", 13, ["${NAME:-default}", "$$"]),
    "variable in braces without quotes": (
        [("output:", "batching: {rows: ${ROWS}}\noutput:")],
        "",
        12,
        ["put quotes", '"${NAME}"'],
    ),
    "parameter that isn't declared": (
        [
            ("name: reviews", "params: {date: x}"),
            ("path: out/", "path: out/${params.dat}"),
            ("input:", "name: r\ninput:"),
        ],
        "output.path",
        14,
        ["${params.date}"],
    ),
    "parameter that must be given": (
        [("input:", "params: {date: null}\ninput:"), ("out/", "out/${params.date}")],
        "params.date",
        3,
        ["--param date=…"],
    ),
    "parameter that leaves the path": (
        [("input:", "params: {date: ../x}\ninput:"), ("out/", "out/${params.date}")],
        "output.path",
        14,
        ["parameter date", "letters, digits"],
    ),
    "parameter of another parameter": (
        [("input:", "params: {a: x, b: '${params.a}'}\ninput:")],
        "params.b",
        3,
        ["can't refer to another"],
    ),
    "key given twice": ([("key: id", "key: id\n  key: id")], "input.key", 6, ["given twice"]),
    "anchor": ([("key: id", "key: &id id")], "input.key", 5, ["anchors", "quotes"]),
    "alias": ([("path: in/", "path: *.parquet")], "input.path", 4, ["aliases", "quotes"]),
    "tag": ([("key: id", "key: !!python/name:os.system id")], "input.key", 5, ["tags"]),
    "second document": ([("output:", "---\noutput:")], "", 12, ["second document"]),
    "tab": ([("  key: id", "\tkey: id")], "", 5, ["spaces, not tabs"]),
    "colon in a value": ([("key: id", "where: a: b")], "", 5, ["colon", "quotes"]),
    "bracket left open": ([("path: in/", "path: [in/")], "", 5, ["not valid YAML"]),
    "list at the top": ([("version: 1\n", "- 1\n")], "", 2, ["not valid YAML"]),
}


@pytest.mark.parametrize(("edits", "where", "line", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_gives_one_message_with_its_place_and_what_to_do(good, problem, edits, where, line, words):
    found = problem(good(*edits))
    assert (found.where, found.line) == (where, line), found
    assert [word for word in words if word not in found.message] == []


@pytest.mark.parametrize("edits", [case[0] for case in MISTAKES.values()], ids=MISTAKES.keys())
def test_no_message_speaks_pydantic_or_repeats_a_secret(good, problem, edits):
    message = problem(good(*edits)).message
    for jargon in ["Input should", "valid", "type=", "tuple", "str", "literal", "hunter2"]:
        assert jargon not in message.replace("is not valid YAML", "")


def test_five_mistakes_give_five_problems_in_the_order_of_the_file(good, problems):
    text = good(
        ("name: reviews", "name: ''"),
        ("key: id", "limit: -1"),
        ("  task: embedding\n", ""),
        ("inputs:", "precison: fp32\n  inputs:"),
        ("path: out/", "path: ${OUT}"),
    )
    assert [(p.where, p.line) for p in problems(text)] == [
        ("name", 2),
        ("input.limit", 5),
        ("model.task", 6),
        ("model.precison", 9),
        ("output.path", 13),
    ]


def test_a_message_is_printable_whatever_the_file_holds(good, problems):
    text = good(
        ("name: reviews", r'name: ["\e[31m"]'), ("key: id", r'"\e[2J\ud800": 1'), ("task: embedding", r'task: "\ud800"')
    )
    for found in problems(text):
        assert found.where.isprintable()
        assert found.message.isprintable()
        assert f"{found.where}{found.message}".encode()


def test_the_steps_form_is_named_as_it_was_written(good, problem):
    text = good(("model:", "steps:"), ("  engine: transformers", "- engine: transformer"))
    found = problem(text)
    assert (found.where, found.line) == ("steps.0.engine", 7)
    assert "did you mean transformers?" in found.message


def test_the_whole_error_reads_as_one_line_for_each_mistake(good, read):
    with pytest.raises(JobFileError) as refusal:
        read(good(("name:", "nmae: x\nname:"), ("version: 1", "version: 2")))
    assert str(refusal.value).splitlines() == [
        "job.yaml:1: version: this batchinfer reads version 1: write version: 1",
        "job.yaml:2: nmae: is an unknown key: did you mean name?",
    ]
