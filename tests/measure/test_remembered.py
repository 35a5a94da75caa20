"""The cache of what was measured: entries by all that they depend on, and no torn one is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchinfer.measure.remembered import Remembered
from batchinfer.precision.artefacts import cache_folder

KEY = {"model": "abc", "device": "cpu", "threads": 2}
FIGURES = {"row_seconds": {"fp32": 0.1, "bf16": 0.05}}


def test_figures_are_found_by_the_same_key_alone(tmp_path: Path) -> None:
    kept = Remembered(tmp_path)
    assert kept.find(KEY) is None
    kept.keep(KEY, FIGURES)
    assert Remembered(tmp_path).find(dict(reversed(KEY.items()))) == FIGURES
    assert kept.find({**KEY, "threads": 3}) is None
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "another"])
def test_a_damaged_entry_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    kept = Remembered(tmp_path)
    kept.keep(KEY, FIGURES)
    (file,) = tmp_path.rglob("*.json")
    text = file.read_text()
    file.write_text(
        {
            "cut": text[:-20],
            "empty": "",
            "changed": text.replace("0.05", "0.01"),
            "another": text.replace("abc", "abd"),
        }[damage]
    )
    assert kept.find(KEY) is None
    kept.keep(KEY, FIGURES)
    assert kept.find(KEY) == FIGURES


def test_a_folder_that_cannot_be_written_is_said_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    Remembered(tmp_path / "file").keep(KEY, FIGURES)
    assert "BATCHINFER_CACHE" in caplog.text


def test_the_folder_is_the_one_that_is_named_else_the_users() -> None:
    assert cache_folder({"BATCHINFER_CACHE": "/x"}) == Path("/x")
    assert cache_folder({"XDG_CACHE_HOME": "/c"}).name == "batchinfer"
