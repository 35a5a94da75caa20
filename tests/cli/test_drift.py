"""`batchinfer drift`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.run.workplace import Workplace
from tests.terminal import batchinfer

LABELS = """
class Label:
    def __init__(self, least=0):
        self.least = least

    def __call__(self, batch):
        return {"label": ["high" if x >= self.least else "low" for x in batch["x"]], "score": batch["x"] / 100}
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three outputs of one input: half of the rows `high`, again so, and a quarter of them."""
    workplace = Workplace(tmp_path_factory.mktemp("drift"))
    (workplace.folder / "code/labelling.py").write_text(LABELS)
    workplace.write(1000)
    for name, least in (("reference", 500), ("same", 500), ("other", 750)):
        model = {
            "uri": "labelling:Label",
            "outputs": {"label": "label", "score": "score"},
            "options": {"least": least},
        }
        assert workplace.run(model=model, output={"path": str(workplace.folder / name)}).exit_code == 0
    return workplace.folder


def test_equal_predictions_are_within_any_threshold(outputs: Path) -> None:
    done = batchinfer("drift", "same", "reference", "--total-variation", "0", "--hellinger", "0.0", folder=outputs)
    assert done.returncode == 0, done.stderr
    assert "same: within the thresholds" in done.stdout


def test_without_a_threshold_nothing_is_judged(outputs: Path) -> None:
    done = batchinfer("drift", "other", "reference", folder=outputs)
    assert done.returncode == 0
    assert "no threshold given" in done.stdout
    assert "high: 50.0 % → 25.0 %" in done.stdout
    assert max(map(len, done.stdout.split("\n"))) <= 80


def test_beyond_a_threshold_is_exit_code_three(outputs: Path) -> None:
    done = batchinfer("drift", "other", "reference", "--total-variation", "0.2", folder=outputs)
    assert done.returncode == 3
    assert "label: total variation 0.2500, and 0.2 is allowed" in done.stdout
    assert batchinfer("drift", "other", "reference", "--total-variation", "0.26", folder=outputs).returncode == 0
    only = ["--column", "score", "--total-variation", "0.2"]
    assert batchinfer("drift", "other", "reference", *only, folder=outputs).returncode == 0


def test_a_saved_profile_is_a_reference(outputs: Path) -> None:
    saved = batchinfer("drift", "reference", "--save", "kept/profile.json", folder=outputs)
    assert saved.returncode == 0, saved.stderr
    assert (outputs / "kept/profile.json").stat().st_size < 10_000
    assert [p.name for p in (outputs / "kept").iterdir()] == ["profile.json"]
    done = batchinfer("drift", "other", "kept/profile.json", "--hellinger", "0.1", "--json", folder=outputs)
    value = json.loads(done.stdout)
    assert (done.returncode, value["exit_code"], value["reference_rows"]) == (3, 3, 1000)
    assert value["columns"][0]["column"] == "label"
    at_once = batchinfer("drift", "same", "kept/profile.json", "--save", "next.json", "--json", folder=outputs)
    assert json.loads(at_once.stdout)["saved"] == "next.json"
    assert (outputs / "next.json").read_bytes() == (outputs / "kept/profile.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["same"], "give a REFERENCE"),
        (["same", "reference", "--column", "lable"], "did you mean 'label'"),
        (["same", "nowhere"], "no job of batchinfer"),
        (["nowhere", "reference"], "no job of batchinfer"),
        (["same", "nowhere.json"], "there is no such file"),
        (["same", "garbage.json"], "not a profile"),
        (["same", "other.json"], "not a profile"),
        (["same", "--save", "profile.txt"], "ends with .json"),
        (["same", "reference", "--total-variation", "2"], "less than or equal to 1"),
    ],
)
def test_what_can_not_be_done_is_exit_code_two(outputs: Path, arguments: list[str], told: str) -> None:
    (outputs / "garbage.json").write_bytes(b"\x00\xff{")
    (outputs / "other.json").write_text('{"rows": 3}')
    done = batchinfer("drift", *arguments, folder=outputs)
    assert done.returncode == 2
    assert told in done.stderr
