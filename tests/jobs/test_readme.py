"""README and the pages say what is so: their commands run, their job files are valid, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from batchinfer.engines.options import TASKS
from batchinfer.job.load import load
from tests.jobs.pages import PAGES, ROOT, Copy, blocks, commands

README = (ROOT / "README.md").read_text()
ALL = {"README.md": README, **{path.name: path.read_text() for path in sorted(PAGES.glob("*.md"))}}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def alike(line: str) -> str:
    """A line without what differs from run to run: figures, durations, names of jobs, folders."""
    line = re.sub(r"\S*/jobs/out", "…/jobs/out", line.rstrip())
    line = re.sub(r"/_batchinfer/[0-9a-f]{8}/", "/_batchinfer/…/", line)
    line = re.sub(r"(\d+ (h|min) )?\d[\d,.]* (s|min|h)\b", "# s", line)
    line = re.sub(r"# s to # s", "# s", line)
    return re.sub(r"\d[\d,.]*", "#", line)


def test_the_recording_is_of_what_the_terminal_shows(copy: Copy) -> None:
    (recording,) = blocks(README, "console")
    said: list[str] = []
    for line in recording.splitlines():
        if line.startswith("$ "):
            done = copy.run(f"{line[2:]} 2>&1")
            assert done.returncode == 0, done.stdout
            # How many threads and which precision there are is the machine's.
            said = [alike(line) for line in done.stdout.splitlines() if "running with" not in line]
        elif "running with" not in line:
            assert alike(line) in said, f"{line}\n---\n{done.stdout}"


def test_the_two_commands_install_what_there_is() -> None:
    installs, tests = commands(README)[:2]
    assert "-e '.[quickstart]'" in installs
    assert "quickstart" in PROJECT["project"]["optional-dependencies"]
    assert installs.endswith(".venv/bin/batchinfer run jobs/quickstart.yaml")
    assert tests.endswith("&& .venv/bin/nox")


def test_sessions_that_are_named_are_there() -> None:
    sessions = set(re.findall(r"^@nox\.session\n(?:@.*\n)*def (\w+)", (ROOT / "noxfile.py").read_text(), re.M))
    named = {name for text in ALL.values() for name in re.findall(r"nox -s (\w+)", text)}
    assert named <= sessions
    assert {"bench", "airflow", "chaos", "simulate"} <= named


def test_extras_that_are_named_are_there() -> None:
    named = {
        n for text in ALL.values() for names in re.findall(r"batchinfer\[([\w,-]+)\]", text) for n in names.split(",")
    }
    assert named <= PROJECT["project"]["optional-dependencies"].keys()
    assert {"s3", "quantization", "images", "openlineage"} <= named


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ALL)
def test_links_lead_somewhere(name: str) -> None:
    folder = ROOT if name == "README.md" else PAGES
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", ALL[name], flags=re.S)):
        if target.startswith("http"):
            continue
        path, _, place = target.partition("#")
        file = folder / path if path else folder / name
        assert file.exists(), target
        if place:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert place in map(anchor, headings), target


def test_each_page_is_found_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(jobs/pages/(\w+\.md)\)", README))
    assert linked == ALL.keys() - {"README.md"}


def test_every_job_of_the_folder_is_named() -> None:
    everything = "".join(ALL.values())
    assert [job.name for job in (ROOT / "jobs").glob("*.yaml") if job.name not in everything] == []


BASE: dict[str, Any] = {
    "version": 1,
    "name": "page",
    "input": {"path": "in"},
    "model": {"engine": "torch", "uri": "m.pt2", "inputs": {"x": "x"}, "outputs": {"y": "y"}},
    "output": {"path": "out"},
}


def jobs_of(text: str) -> list[dict[str, Any]]:
    """The YAML blocks as whole jobs: what a block leaves out is filled in."""
    found = []
    for block in blocks(text, "yaml"):
        value = YAML(typ="safe", pure=True).load(block)
        if "version" not in value:
            known = {
                "model",
                "steps",
                "input",
                "output",
                "resources",
                "run",
                "cache",
                "report",
                "storage",
                "code",
                "batching",
            }
            value = value if value.keys() <= known else {"model": {**BASE["model"], **value}}
            base = {key: part for key, part in BASE.items() if key != "model" or "steps" not in value}
            value = {**base, **value}
        found.append(value)
    return found


@pytest.mark.parametrize("name", [name for name, text in ALL.items() if blocks(text, "yaml")])
def test_the_job_files_are_valid(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MINIO_KEY", "MINIO_SECRET", "KAFKA_PASSWORD"):
        monkeypatch.setenv(variable, f"{variable} of the store")
    for number, job in enumerate(jobs_of(ALL[name])):
        text = re.sub(r"<revision>", "0" * 40, str(dump(job)))
        (tmp_path / f"{number}.yaml").write_text(text)
        spec = load(tmp_path / f"{number}.yaml", {"date": "2026-11-22"} if job.get("params") else {})
        assert spec.name == job["name"]


def dump(job: dict[str, Any]) -> str:
    import io

    made = io.StringIO()
    YAML(typ="safe", pure=True).dump(job, made)
    return made.getvalue()


def test_the_tasks_of_the_page_about_texts_give_what_it_says() -> None:
    told = {
        task: re.findall(r"`(\w+)`", cell.partition(";")[0])
        for task, cell in re.findall(r"^\| `([\w-]+)` \| (.+) \|$", ALL["text.md"], re.M)
    }
    del told["task"]  # the heading
    assert told.pop("text-generation") == []
    assert told == {name: list(task.outputs) for name, task in TASKS.items() if not name.startswith("image")}


USES = ("text.md", "tabular.md", "images.md", "cascade.md", "reuse.md", "llm.md", "ray.md", "report.md")


@pytest.mark.parametrize("name", USES)
def test_the_jobs_that_a_page_runs_are_there(name: str) -> None:
    """They are run by the tests of the examples."""
    asked = [shlex.split(line) for line in commands(ALL[name])]
    assert any(words[:2] == ["batchinfer", "run"] for words in asked)
    for program, *words in asked:
        if program == "python":
            assert (ROOT / words[0]).is_file()
        elif program == "batchinfer" and words[0] == "run":
            overrides = [value for option, value in pairwise(words) if option == "--set"]
            load(ROOT / words[1], {}, overrides)


def test_the_commands_about_reports_work(copy: Copy) -> None:
    copy.shorten()
    for line in commands(ALL["report.md"]):
        copy.works(line)
    assert "succeeded" in (copy.folder / "report.html").read_text()


@pytest.mark.ray
def test_the_command_about_several_workers_works(copy: Copy) -> None:
    (line,) = commands(ALL["ray.md"])
    assert "2 workers (ray)" in copy.works(line)


def test_the_commands_about_stores_work(copy: Copy, s3_server: str) -> None:
    """On the emulator, by the variables that S3's own library reads."""
    variables = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }
    copy.shorten()
    ran = [line for line in commands(ALL["s3.md"]) if not line.startswith("pip ")]
    for line in ran:
        copy.works(line, **variables)
    assert len(ran) == 4
    assert "succeeded" in (copy.folder / "report.html").read_text()


def test_what_python_is_told_works(copy: Copy) -> None:
    first, own = blocks(README, "python")
    (copy.folder / "session.py").write_text(first)
    copy.works("python session.py")
    assert own == (ROOT / "jobs" / "own_engine.py").read_text()
    assert len([line for line in own.splitlines() if line.strip()]) <= 30
    copy.works("batchinfer run jobs/own_engine.yaml")
