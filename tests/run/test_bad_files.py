"""Damaged and odd files of other projects in whole runs: some of them here, all of them among the tests of chaos."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run.bad_files import FILES, check

SOME = [f for n, f in enumerate(FILES) if n % 16 == 0 or "5638988460785664" in f or "case-043" in f]


@pytest.mark.parametrize("files", [SOME] if SOME else [], ids=lambda files: f"{len(files)} files")
def test_a_file_is_read_or_ends_its_run_with_2_and_its_name_and_costs_no_other_row(
    tmp_path: Path, files: list[str]
) -> None:
    kinds = check(tmp_path, files)
    assert {"read", "refused when it is read"} <= set(kinds), kinds
