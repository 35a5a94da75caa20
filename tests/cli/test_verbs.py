from __future__ import annotations

import json

import pytest

from batchinfer.storage import paths

HEAVY = {"torch", "ray", "transformers", "polars", "pyarrow", "rich", "sqlglot", "numpy"}


def modules_after(workplace, *arguments):
    """The top-level modules that a command has imported by its end."""
    code = (
        "import sys\nfrom batchinfer.cli.app import app\n"
        f"sys.argv = ['batchinfer', *{list(arguments)!r}]\n"
        "try:\n    app(prog_name='batchinfer')\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "print('\\n'.join({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = workplace.python(code)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "verb",
    [
        "init",
        "validate",
        "plan",
        "run",
        "retry",
        "status",
        "verify",
        "compare",
        "drift",
        "errors",
        "bench",
        "schema",
        "clean",
    ],
)
def test_every_verb_and_option_has_help(workplace, verb):
    lines = workplace.batchinfer(verb, "--help").stdout.split("\n")
    options = [n for n, line in enumerate(lines) if line.startswith("  -")]
    assert options
    for n in options:
        on_its_line = len(lines[n].strip().split("  ", 1)) == 2
        assert on_its_line or lines[n + 1].startswith(" " * 10), lines[n]


def test_the_version_is_printed(workplace):
    done = workplace.batchinfer("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("batchinfer")


def test_help_imports_nothing_heavy(workplace):
    assert not modules_after(workplace, "--help") & (HEAVY | {"pydantic"})


def test_validate_imports_nothing_heavy(workplace):
    workplace.write_job()
    assert not modules_after(workplace, "validate", "job.yaml") & HEAVY


def test_an_inline_run_without_a_terminal_imports_neither_ray_nor_rich(workplace):
    workplace.write_job()
    assert not modules_after(workplace, "run", "job.yaml") & {"ray", "rich", "transformers"}


def test_a_job_goes_from_init_over_validate_and_plan_to_run(workplace):
    workplace.write_job(rows=60)
    (workplace.folder / "job.yaml").unlink()
    (workplace.folder / "models.py").write_text((workplace.folder / "code" / "models.py").read_text())
    asked = ["--input", "input.parquet", "--model", "models:Double", "--output", "out"]
    wrote = workplace.batchinfer("init", "mine.yaml", *asked)
    assert wrote.returncode == 0, wrote.stderr
    assert workplace.batchinfer("validate", "mine.yaml").stdout == "ok: mine.yaml is a valid job (mine)\n"
    planned = workplace.batchinfer("plan", "mine.yaml")
    assert planned.returncode == 0, planned.stderr
    assert "rows       60" in planned.stdout
    done = workplace.batchinfer("run", "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert f'pl.read_parquet("{workplace.output}/data/*.parquet")' in done.stdout


def test_init_keeps_an_existing_file_unless_forced(workplace):
    (workplace.folder / "job.yaml").write_text("mine")
    asked = ["--input", "in", "--model", "models:Double", "--output", "out"]
    refused = workplace.batchinfer("init", *asked)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert (workplace.folder / "job.yaml").read_text() == "mine"
    assert workplace.batchinfer("init", *asked, "--force").returncode == 0
    assert "models:Double" in (workplace.folder / "job.yaml").read_text()


def test_init_without_a_terminal_names_the_option_that_is_missing(workplace):
    done = workplace.batchinfer("init", "--input", "in", "--output", "out")
    assert done.returncode == 2
    assert "--model is missing" in done.stderr
    assert not (workplace.folder / "job.yaml").exists()


def test_schema_is_json_schema(workplace):
    value = json.loads(workplace.batchinfer("schema").stdout)
    assert value["$schema"].startswith("https://json-schema.org/")


def test_plan_says_the_same_in_words_in_json_and_in_a_notebook(workplace):
    workplace.write_job(rows=120, shard=50)
    words = workplace.batchinfer("plan", "job.yaml").stdout
    assert "3 shards, 3 windows of up to 50 rows" in words
    assert "1 worker (inline)" in words
    value = json.loads(workplace.batchinfer("plan", "job.yaml", "--json").stdout)
    assert (value["rows"], value["shards"], value["computed"], value["carried"]) == (120, 3, ["y"], ["id"])
    assert value["resources"]["workers"] == 1
    code = "from batchinfer import Job; p = Job.from_yaml('job.yaml').plan(); print(p); print(p._repr_html_())"
    shown = workplace.python(code)
    assert shown.stdout.startswith("Plan('doubling': 120 rows, 3 shards → ")
    assert "3 shards, 3 windows of up to 50 rows" in shown.stdout


def test_plan_says_what_pools_of_steps_get(workplace):
    workplace.write_job(rows=120, shard=50)
    more = ["--set", "steps.0.workers=[1, 3]", "--set", "steps.0.cpus=2", "--set", "resources.executor=ray"]
    words = workplace.batchinfer("plan", "job.yaml", *more).stdout
    assert "1 to 3 model actors, with 2 CPU threads each" in words
    value = json.loads(workplace.batchinfer("plan", "job.yaml", "--json", *more).stdout)
    assert list(value["resources"]["pools"].values()) == [{"least": 1, "most": 3, "threads": 2, "gpus": None}]


def test_errors_are_grouped_with_examples_of_where_they_came_from(workplace):
    workplace.write_job(bad=[3, 14, 15, 92, 65])
    workplace.batchinfer("run", "job.yaml")
    words = workplace.batchinfer("errors", "out").stdout
    assert "5 × ValueError: x is not to be doubled" in words
    assert f"{workplace.folder}/input.parquet row 3, key row-3" in words
    assert "and 2 more" in words
    value = json.loads(workplace.batchinfer("errors", "job.yaml", "--json").stdout)
    assert value["dead"] == 5
    group = value["groups"][0]
    assert (group["error_type"], group["rows"], group["examples"][0]["source_row"]) == ("ValueError", 5, 3)


def test_errors_show_the_rows_that_are_dead_still_and_the_resolved_ones_on_request(workplace):
    workplace.write_job(bad=[3, 14, 15, 92, 65])
    workplace.batchinfer("run", "job.yaml")
    workplace.batchinfer("retry", "out", "--set", "model.options.bad=[14]")
    assert json.loads(workplace.batchinfer("errors", "out", "--json").stdout)["dead"] == 1
    assert "1 dead row\n" in workplace.batchinfer("errors", "out").stdout
    words = workplace.batchinfer("errors", "out", "--resolved").stdout
    assert "1 dead row, 4 resolved by a retry" in words
    value = json.loads(workplace.batchinfer("errors", "out", "--resolved", "--json").stdout)
    assert (value["dead"], value["resolved"], value["groups"][0]["rows"]) == (1, 4, 5)


def test_status_tells_a_dead_runner_from_a_live_one(workplace):
    workplace.write_job(rows=2000, batch=10, seconds=0.1)
    run = workplace.start("run", "job.yaml")
    try:
        assert run.stderr is not None
        for line in run.stderr:
            if "rows (" in line:
                break
        value = json.loads(workplace.batchinfer("status", "out", "--json").stdout)
        assert value["state"] == "RUNNING"
        assert value["runner"]["state"] == "alive"
        assert value["runner"]["heartbeat_age"] < 30
        assert f"alive: process {run.pid}" in workplace.batchinfer("status", "out").stdout
    finally:
        run.kill()
        run.communicate()
    assert f"dead: process {run.pid}" in workplace.batchinfer("status", "out").stdout


def test_clean_removes_what_nobody_needs_and_nothing_else(workplace):
    workplace.write_job(rows=100, bad=[3])
    workplace.batchinfer("run", "job.yaml")
    former = {p for p in workplace.output.glob("_batchinfer/*/**/*") if p.is_file() and "jobs" not in p.parts}
    workplace.batchinfer("run", "job.yaml", "--restart")
    current = {p for p in workplace.output.rglob("*") if p.is_file()} - former
    job8 = next(p for p in workplace.output.glob("data/part-0000000-*")).stem.rpartition("-")[2]
    left = [
        workplace.output / paths.SCRATCH / ".part.parquet.0a1b2c.tmp",
        workplace.output / "_batchinfer/probes/0a1b2c3d",
        workplace.output / f"_batchinfer/{job8}/wip/0000001/0a1b2c3d4e5f.arrow",
        workplace.output / f"_dead_letter/part-0000000-{job8}-0a1b2c3d4e5f.parquet",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left over")
    needed = workplace.output / f"_batchinfer/{job8}/wip/0000009/0a1b2c3d4e5f.arrow"
    needed.parent.mkdir()
    needed.write_bytes(b"of a shard that has no part")
    assert former

    listed = workplace.batchinfer("clean", "out")
    assert listed.returncode == 0, listed.stderr
    assert "--yes" in listed.stdout
    assert workplace.batchinfer("clean", "out", "--dry-run").stdout == listed.stdout
    assert workplace.batchinfer("clean", "out", "--dry-run", "--yes").returncode == 2
    assert all(p.exists() for p in [*former, *left])
    removed = workplace.batchinfer("clean", "out", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert {p for p in workplace.output.rglob("*") if p.is_file()} == current | {needed}
    assert workplace.batchinfer("clean", "out").stdout == "nothing to clean\n"
    assert workplace.batchinfer("run", "job.yaml").returncode == 3


def test_validate_looks_at_the_steps_among_themselves(workplace):
    steps = "steps: [{name: one, rules: {a: b}}, {name: two, rules: {b: a}}]"
    (workplace.folder / "job.yaml").write_text(
        f"version: 1\nname: round\ninput: {{path: in}}\n{steps}\noutput: {{path: out}}\n"
    )
    refused = workplace.batchinfer("validate", "job.yaml")
    assert refused.returncode == 2
    assert "one: the steps go round in a circle: one needs 'b' of two, and two needs 'a' of one" in refused.stderr
    (workplace.folder / "job.yaml").write_text((workplace.folder / "job.yaml").read_text().replace("b: a", "b: x"))
    assert workplace.batchinfer("validate", "job.yaml").returncode == 0
