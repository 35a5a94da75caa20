"""A job over a range of days: each an output of its own, one summary."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DAYS = ["2026-02-27", "2026-02-28", "2026-03-01"]
RANGE = f"day={DAYS[0]}..{DAYS[-1]}"


@pytest.fixture
def daily(workplace):
    """A job whose paths have the day in them, and input for three days."""
    workplace.write_job(bad=[7])
    for n, day in enumerate(DAYS):
        (workplace.folder / "in" / day).mkdir(parents=True)
        table = pa.table({"id": [f"{day}-{i}" for i in range(n + 1)], "x": pa.array(range(n + 1), pa.int64())})
        pq.write_table(table, workplace.folder / "in" / day / "a.parquet")
    text = (workplace.folder / "job.yaml").read_text()
    text = text.replace("path: input.parquet", "path: 'in/${params.day}'").replace(
        "path: out}", "path: 'out/${params.day}'}"
    )
    (workplace.folder / "job.yaml").write_text(f"params: {{day: null}}\n{text}")
    return workplace


def test_each_day_is_a_run_of_its_own_and_one_summary_tells_of_all(daily):
    done = daily.batchinfer("run", "job.yaml", "--param", RANGE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "day: 3 of 3 days done (exit code 0)"
    for n, day in enumerate(DAYS):
        assert len(pq.read_table(daily.folder / "out" / day / "data")) == n + 1
        assert re.search(rf"{day} +succeeded, {n + 1} of {n + 1} rows", done.stdout)
    assert f"batchinfer: day {DAYS[1]}" in done.stderr


def test_the_same_command_resumes_and_the_json_has_each_day(daily):
    daily.batchinfer("run", "job.yaml", "--param", f"day={DAYS[1]}")
    done = daily.batchinfer("run", "job.yaml", "--param", RANGE, "--json", "--result-file", "result.json")
    value = json.loads(done.stdout)
    assert (value["exit_code"], value["param"], value["errors"]) == (0, "day", [])
    assert [d["rows"]["succeeded"] for d in value["days"].values()] == [1, 2, 3]
    assert value["days"][DAYS[1]]["usage"]["rows"] == 0, "it was done before"
    assert (daily.folder / "result.json").read_text() == done.stdout


def test_a_day_that_fails_keeps_no_other_from_running(daily):
    (daily.folder / "in" / DAYS[0] / "a.parquet").unlink()
    table = pa.table({"id": ["seven"], "x": pa.array([7], pa.int64())})
    pq.write_table(table, daily.folder / "in" / DAYS[1] / "a.parquet")
    done = daily.batchinfer("run", "job.yaml", "--param", RANGE)
    assert done.returncode == 2, "of 2, 3 and 0"
    assert done.stdout.splitlines()[0] == "day: 1 of 3 days done (exit code 2)"
    assert re.search(rf"{DAYS[0]} +exit code 2: input\.path", done.stdout)
    assert re.search(rf"{DAYS[1]} +partial, 0 of 1 rows, 1 dead", done.stdout)
    assert f"error: {DAYS[0]}: input.path" in done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("day=2026-03-01..2026-02-27", "write the first day, two dots, and the last"),
        ("day=2026-02-27..2026-02-30", "day=2026-02-27..2026-02-30: day"),
        ("day=1000-01-01..2026-01-01", "3,660 days at most"),
    ],
)
def test_what_is_no_range_is_refused(daily, given, message):
    done = daily.batchinfer("run", "job.yaml", "--param", given)
    assert done.returncode == 2
    assert message in done.stderr


def test_days_that_go_to_one_output_are_refused(daily):
    text = (daily.folder / "job.yaml").read_text()
    (daily.folder / "job.yaml").write_text(text.replace("'out/${params.day}'", "out/all"))
    done = daily.batchinfer("run", "job.yaml", "--param", RANGE)
    assert done.returncode == 2
    assert "put ${params.day} into it" in done.stderr
    assert len(pq.read_table(daily.folder / "out" / "all" / "data")) == 1


def test_two_ranges_are_refused(daily):
    done = daily.batchinfer("run", "job.yaml", "--param", RANGE, "--param", RANGE.replace("day", "other"))
    assert done.returncode == 2
    assert "only one of them can be a range" in done.stderr
