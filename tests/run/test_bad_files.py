"""The damaged and odd files of other projects, each in two whole runs: alone, and between sound files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.data.helpers import REAL
from tests.run.bad_files import GOOD

FILES = sorted(str(p) for p in (REAL / "parquet-bad").glob("*.parquet"))


@pytest.mark.parametrize("files", [FILES] if FILES else [], ids=lambda files: f"{len(files)} files")
def test_each_file_is_read_or_ends_its_run_with_2_and_its_name_and_costs_no_other_row(
    tmp_path: Path, files: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.run.bad_files", str(tmp_path), *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(outcomes)) == (0, len(files)), done.stderr[-2000:]
    kinds = Counter()
    for outcome in outcomes:
        file, alone, beside = outcome["file"], outcome["alone"], outcome["beside"]
        assert alone["code"] == beside["code"], outcome
        if alone["code"] == 0:
            kinds["read"] += 1
            assert beside["succeeded"] == alone["succeeded"] + 2 * GOOD, outcome
            continue
        assert alone["code"] == 2, outcome
        for told in (alone["told"], beside["told"]):
            assert file in told or told.startswith("output.carry: the column "), outcome
        assert alone["planned"] == beside["planned"], outcome
        if not beside["planned"]:
            kinds["refused when it is planned"] += 1
        else:
            kinds["refused when it is read"] += 1
            assert beside["succeeded"] >= 2 * GOOD, outcome
            assert beside["rest"] == alone["rest"] > 0, outcome
    assert min(kinds.values()) > 5, kinds
    assert len(kinds) == 3, kinds
