"""Shell completion: by the variables that the shells' scripts set, and in a real bash."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.cli.bash_words import joined
from batchinfer.data.column_names import column_names
from tests.cli.test_verbs import HEAVY

JOB = """\
version: 1
name: daily
params: {day: null, rows: 5, lake: "s3://lake/x", place: "${HOME}"}
input: {path: input.parquet}
steps:
  - {name: first, engine: python, uri: "models:A", inputs: {x: x}, outputs: {y: y}, options: {seconds: 1}}
  - {name: second, engine: python, uri: "models:B", inputs: {y: y}, outputs: {z: z}}
output: {path: out/of job}
"""


@pytest.fixture
def folder(workplace):
    (workplace.folder / "daily.yaml").write_text(JOB)
    (workplace.folder / "later" / "still").mkdir(parents=True)
    (workplace.folder / "later" / "still" / "other.yml").write_text("name: x")
    (workplace.folder / "results" / "kept" / "_batchinfer").mkdir(parents=True)
    kind = pa.struct([("id", pa.int64()), ("deep", pa.list_(pa.struct([("leaf", pa.string())])))])
    pq.write_table(
        pa.table({"key": [1], "nested": pa.array([None], kind), "text": ["a"]}), workplace.folder / "input.parquet"
    )
    return workplace


def asked(workplace, **variables):
    done = subprocess.run(
        [sys.executable, "-m", "batchinfer"],
        cwd=workplace.folder,
        env={**workplace.environment(), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def bash(workplace, *words):
    """What bash is told for words as bash parts them, of which the last is to be completed."""
    line = "\n".join(["batchinfer", *words])
    return asked(workplace, _BATCHINFER_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words)))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ver"], ["verify"]),
        (["run", "--if"], ["--if-locked"]),
        (["run", "--if-locked", ""], ["fail", "wait", "skip"]),
        (["run", ""], ["daily.yaml", "later/", "results/"]),
        (["run", "lat"], ["later/still/other.yml"]),
        (["status", "res"], ["results/kept"]),
        (["run", "daily.yaml", "--param", ""], ["day=", "rows=", "lake=", "place="]),
        (["run", "daily.yaml", "--param", "rows", "=", ""], ["5"]),
        (["run", "daily.yaml", "--param", "lake", "=", "s3", ":", "//"], ["//lake/x"]),
        (["run", "daily.yaml", "--param", "place", "=", ""], []),
        (["status", "daily.yaml", "--param", "d"], ["day=", "day=…"]),
        (["plan", "daily.yaml", "--set", "ret"], ["retry.max_retries=", "retry.timeout="]),
        (["plan", "daily.yaml", "--set", "steps."], ["steps.0.", "steps.1."]),
        (["plan", "daily.yaml", "--set", "steps.1.prec"], ["steps.1.precision=", "steps.1.precision=…"]),
        (["plan", "daily.yaml", "--set", "steps.1.precision", "=", "int8"], ["int8", "int8-weight"]),
        (
            ["plan", "daily.yaml", "--set", "steps.0.options."],
            ["steps.0.options.seconds=", "steps.0.options.seconds=…"],
        ),
        (["plan", "daily.yaml", "--set", "params.r"], ["params.rows=", "params.rows=…"]),
        (["plan", "daily.yaml", "--set", "errors.circuit_breaker", "="], ["true", "false"]),
        (["plan", "daily.yaml", "--set", "input.key", "=", ""], ["key", "nested", "text"]),
        (["plan", "daily.yaml", "--set", "steps.0.inputs.x", "=", "t"], ["text"]),
        (["plan", "missing.yaml", "--set", "checkpoint"], ["checkpoint.interval=", "checkpoint.interval=…"]),
    ],
    ids=lambda value: "_".join(value) if value and isinstance(value, list) else "nothing",
)
def test_words_are_completed_as_bash_parts_them(folder, words, expected):
    assert bash(folder, *words) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_whole_words(folder, shell):
    variables = {"_BATCHINFER_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    found = asked(folder, **variables, _TYPER_COMPLETE_ARGS="batchinfer plan daily.yaml --set steps.1.precision=b")
    assert [word for word in " ".join(found).replace('"', " ").split() if "=" in word] == [
        "steps.1.precision=bf16",
        "steps.1.precision=bf16-compiled",
    ]


@pytest.mark.parametrize("text", ["a: [", "\x00\x01", "- no\n- mapping", "params: 3", "a: *x"])
def test_a_job_file_that_can_not_be_read_completes_nothing_in_silence(folder, text):
    (folder.folder / "daily.yaml").write_text(text)
    assert bash(folder, "run", "daily.yaml", "--param", "") == []
    assert bash(folder, "run", "daily.yaml", "--set", "retry.t") == ["retry.timeout=", "retry.timeout=…"]


@pytest.mark.parametrize("words", [["run", "no/such/folder/"], ["run", "~nobody/"], ["errors", "\x1b["]])
def test_a_place_that_is_not_there_completes_nothing_in_silence(folder, words):
    assert bash(folder, *words) == []


def test_a_completion_imports_nothing_heavy(folder):
    code = (
        "import os, sys\n"
        "os.environ.update(_BATCHINFER_COMPLETE='complete_bash', COMP_CWORD='5',"
        " COMP_WORDS='batchinfer\\nplan\\ndaily.yaml\\n--set\\ninput.key=\\n')\n"
        "from batchinfer.cli.app import app\n"
        "try:\n    app(prog_name='batchinfer')\nexcept SystemExit:\n"
        "    print('\\n'.join({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    assert not set(folder.python(code).stderr.split()) & HEAVY
    assert set(folder.python(code).stderr.split()) & {"pydantic"}  # it did look at the schema


def test_words_are_put_together_up_to_the_cursor():
    line = ["batchinfer", "run", "--param", "a", "=", "s3", ":", "//x", "--set", "b"]
    assert joined(line, 7) == (["batchinfer", "run", "--param", "a=s3://x"], 3)
    assert joined(line, 9) == (["batchinfer", "run", "--param", "a=s3://x", "--set", "b"], 5)
    assert joined(["batchinfer", "run"], 2) == (["batchinfer", "run", ""], 2)
    assert joined(["batchinfer", "="], 1) == (["batchinfer", "="], 1)


def test_columns_are_those_of_the_top(folder, tmp_path):
    assert column_names(folder.folder / "input.parquet") == ["key", "nested", "text"]
    for content in (b"", b"PAR1", b"\xff" * 40, b"\x00" * 20 + (2**31).to_bytes(4, "little") + b"PAR1"):
        (tmp_path / "no.parquet").write_bytes(content)
        with pytest.raises(ValueError):
            column_names(tmp_path / "no.parquet")


def test_a_single_word_that_goes_on_is_given_in_two_ways_but_for_fish(folder):
    typed = "batchinfer plan daily.yaml --set retry.t"
    found = asked(folder, _BATCHINFER_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=typed)
    assert '"retry.timeout=…"' in " ".join(found)
    variables = {"_BATCHINFER_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert asked(folder, **variables, _TYPER_COMPLETE_ARGS=typed) == ["retry.timeout="]


SESSION = r"""
import json, os, sys
import pexpect

shell = pexpect.spawn(
    "bash", ["--norc", "--noprofile", "-i"], env=dict(os.environ), encoding="utf-8", timeout=30, dimensions=(24, 200)
)
shell.sendline(
    "bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; eval \"$(batchinfer --show-completion bash)\"; echo re''ady"
)
shell.expect_exact("ready\r\n")
for typed, becomes in json.loads(sys.argv[1]):
    shell.send(typed)
    shell.expect_exact(becomes)
    shell.sendcontrol("c")
shell.close(force=True)
print("all")
"""
"""In a process of its own: one with threads of other libraries is no good one to fork a shell from."""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes_what_is_typed(folder):
    program = folder.folder / "bin" / "batchinfer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m batchinfer "$@"\n')
    program.chmod(0o755)
    environment = {**folder.environment(), "TERM": "dumb", "INPUTRC": "/dev/null", "PS1": "> "}
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"
    typed = [
        ("batchinfer val\tda\t--pa\tda\t2026-11-22", "batchinfer validate daily.yaml --param day=2026-11-22"),
        ("batchinfer plan daily.yaml --set steps.1.prec\tint8-\t", "--set steps.1.precision=int8-weight "),
        ("batchinfer run daily.yaml --param lake=s3:\t", "--param lake=s3://lake/x "),
    ]
    done = subprocess.run(
        [sys.executable, "-c", SESSION, json.dumps(typed)],
        env=environment,
        cwd=folder.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "all\n", done.stderr
