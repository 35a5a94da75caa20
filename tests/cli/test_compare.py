"""`batchinfer compare`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.shadows import Shadows
from tests.terminal import batchinfer


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two outputs of 1,000 rows: of every tenth row the label differs, and two rows of the second are dead."""
    shadows = Shadows(tmp_path_factory.mktemp("compare"))
    shadows.workplace.write(1000)
    shadows.run("one")
    shadows.run("two", {"least": 600, "bad": [1, 2]})
    return shadows.folder


def test_the_comparison_is_told_in_eighty_columns(outputs: Path) -> None:
    done = batchinfer("compare", "one", "two", folder=outputs, environment={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert lines[0] == "998 rows compared"
    assert "  rows   998 in both, 2 only in A, 0 only in B" in lines
    assert "         dead in A alone 0, in B alone 2, in both 0" in lines
    assert "  label  89.80 % of the rows agree" in lines
    assert "         high → low: 100 rows" in lines
    assert "  1.     key 500: 1 in label, of at most 1" in lines
    assert "6.  " not in done.stdout
    assert all(len(line) <= 80 for line in lines if str(outputs) not in line)


def test_predictions_are_shown_where_that_is_asked_for(outputs: Path) -> None:
    shown = batchinfer("compare", "one", "two", "--top", "1", "--show", folder=outputs)
    assert "label: high → low" in shown.stdout
    assert "score: 0.5 → 0.5" in shown.stdout
    assert "score: 0.5" not in batchinfer("compare", "one", "two", folder=outputs).stdout


def test_bounds_decide_the_exit_code(outputs: Path) -> None:
    kept = batchinfer("compare", "one", "two", "--min-agreement", "0.89", "--max-drift", "0.2", folder=outputs)
    assert (kept.returncode, kept.stdout.split("\n")[0]) == (0, "within the bounds")
    missed = batchinfer("compare", "one", "two", "--min-agreement", "0.9", folder=outputs)
    assert (missed.returncode, missed.stdout.split("\n")[0]) == (3, "1 bound not kept")
    assert "label: 89.80 % of the rows agree, and 90.00 % are asked" in missed.stdout
    assert batchinfer("compare", "one", "two", "--max-drift", "0.05", folder=outputs).returncode == 3
    only = ["--column", "score", "--min-agreement", "0.9", "--max-drift", "0.05"]
    assert batchinfer("compare", "one", "two", *only, folder=outputs).returncode == 0


def test_json_has_all_of_it_in_one_line(outputs: Path) -> None:
    done = batchinfer("compare", "one", "two", "--json", "--top", "2", "--min-agreement", "1", folder=outputs)
    value = json.loads(done.stdout)
    assert (done.returncode, value["exit_code"], done.stdout.count("\n")) == (3, 3, 1)
    assert value["rows"] == {
        "both": 998,
        "only_first": 2,
        "only_second": 0,
        "dead_in_first": 0,
        "dead_in_second": 2,
        "dead_in_both": 0,
    }
    assert [(c["column"], c["agreement"]) for c in value["columns"]] == [("label", 0.898), ("score", 0.998)]
    assert [row["key"] for row in value["most_different"]] == ["500", "501"]
    assert {c["column"] for c in value["drift"]} == {"label", "score"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["one", "nowhere"], "no job of batchinfer"),
        (["one", "two", "--column", "lable"], "did you mean 'label'"),
        (["one", "two", "--key", "idd"], "did you mean 'id'"),
        (["one", "two", "--min-agreement", "90"], "less than or equal to 1"),
        (["one"], "Missing argument"),
    ],
)
def test_what_can_not_be_compared_is_exit_code_two(outputs: Path, arguments: list[str], told: str) -> None:
    done = batchinfer("compare", *arguments, folder=outputs)
    assert done.returncode == 2
    assert told in done.stderr
