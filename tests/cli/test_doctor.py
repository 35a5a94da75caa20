"""`batchinfer doctor` as a user sees it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from batchinfer.cli.doctor import MARKS
from batchinfer.doctor.finding import Finding, State
from tests.cli.conftest import ROOT, VARIABLES
from tests.terminal import batchinfer

SECRET = "s3cr3t-value-nobody-may-see"
SECTIONS = ["machine", "installed", "credentials", "ray", "disks"]


def doctor(workplace, *arguments, **variables):
    return batchinfer("doctor", *arguments, folder=workplace.folder, environment={**VARIABLES, **variables})


def test_the_machine_is_told_of_in_eighty_columns(workplace):
    done = doctor(workplace)
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line for line in lines if line and line[0] != " "][:-1] == SECTIONS
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "nothing is in the way; batchinfer doctor JOB looks at what a job needs"
    assert "  ✓ torch" in done.stdout


def test_a_job_that_can_run_here_ends_with_0_and_its_json_is_one_line_last(workplace):
    workplace.write_job()
    done = doctor(workplace, "job.yaml", "--json")
    assert done.returncode == 0, done.stdout
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert (told["exit_code"], told["wrong"]) == (0, 0)
    assert list(told["sections"]) == [*SECTIONS, "job job.yaml"]
    assert {"topic", "state", "text"} <= told["sections"]["job job.yaml"][0].keys()
    assert not workplace.output.exists()


def test_a_job_that_can_not_ends_with_2_and_each_thing_is_marked(workplace):
    workplace.write_job()
    (workplace.folder / "input.parquet").unlink()
    done = doctor(workplace, "job.yaml", "--set", "model.uri=models:Duoble")
    assert done.returncode == 2
    marked = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  ✗")]
    assert marked == ["model", "input"]
    assert done.stdout.splitlines()[-1] == "2 things marked ✗ must be mended before job.yaml can run here"
    assert "did you mean Double?" in done.stdout


def test_a_wrong_job_file_is_a_finding_and_the_machine_is_told_of_all_the_same(workplace):
    workplace.write_job()
    done = doctor(workplace, "job.yaml", "--set", "model.precison=x", "--param", "a=b", "--json")
    assert done.returncode == 2
    told = json.loads(done.stdout)["sections"]
    assert [f["state"] for f in told["job job.yaml"]] == ["wrong", "wrong"]
    assert "did you mean precision?" in str(told["job job.yaml"])
    assert told["machine"]
    assert doctor(workplace, "missing.yaml").returncode == 2


@pytest.mark.parametrize("arguments", [(), ("job.yaml",), ("job.yaml", "--json")])
def test_credentials_are_found_and_never_shown(workplace, arguments):
    home = workplace.folder / "home"
    for name in (".aws/credentials", ".cache/huggingface/token"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(SECRET)
    workplace.write_job()
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN", "HF_TOKEN", "DATABRICKS_TOKEN")
    variables = dict.fromkeys(names, SECRET)
    variables |= {"HOME": str(home), "RAY_ADDRESS": f"ray://u:{SECRET}@nowhere:1", "MY_API_KEY": SECRET}
    done = doctor(workplace, *arguments, **variables)
    assert SECRET not in done.stdout + done.stderr
    assert SECRET[:12] not in done.stdout
    assert all(name in done.stdout for name in names)
    assert "~/.aws/credentials" in done.stdout


def test_a_storage_package_that_is_missing_comes_with_the_command(workplace):
    workplace.write_job()
    code = (
        "import sys\nsys.modules.update(s3fs=None)\nfrom batchinfer.cli.app import app\n"
        "sys.argv = ['batchinfer', 'doctor', 'job.yaml', '--set', 'input.path=s3://lake/x', '--json']\n"
        "app(prog_name='batchinfer')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workplace.folder, env=workplace.environment(), capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    (line,) = [f for f in json.loads(done.stdout)["sections"]["job job.yaml"] if f["state"] == "wrong"]
    assert line["topic"] == "input"
    assert line["advice"] == "pip install 'batchinfer[s3]'"


@pytest.mark.slow
def test_the_page_says_what_the_program_does(workplace):
    page = (ROOT / "jobs" / "pages" / "doctor.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    first, second = ([line for line in block.splitlines() if line] for block in blocks)
    for line in first:
        done = batchinfer(*shlex.split(line)[1:], folder=ROOT, environment=VARIABLES)
        assert done.returncode == 0, done.stdout
    workplace.write_job()
    bin_ = workplace.folder / "bin"
    bin_.mkdir()
    (bin_ / "batchinfer").write_text(f'#!/bin/sh\nexec {sys.executable} -m batchinfer "$@"\n')
    (bin_ / "batchinfer").chmod(0o755)
    environment = workplace.environment()
    environment["PATH"] = f"{bin_}:{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["sh", "-c", second[0]], cwd=workplace.folder, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "0\n", done.stderr
    assert all(
        f"`{word}`" in page for word in (*Finding.__dataclass_fields__, *State, "exit_code", "wrong", "sections")
    )
    assert all(mark in page for mark in MARKS.values())


def test_a_user_without_a_home_is_examined_too(workplace):
    code = (
        "import os, pwd, sys\ndef nobody(_): raise KeyError('uid not found')\npwd.getpwuid = nobody\n"
        "os.environ.pop('HOME')\nfrom batchinfer.cli.app import app\nsys.argv = ['batchinfer', 'doctor', '--json']\n"
        "app(prog_name='batchinfer')"
    )
    done = workplace.python(code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exit_code"] == 0
