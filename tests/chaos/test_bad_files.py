"""All damaged and odd files of other projects in whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run.bad_files import FILES, check

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("files", [FILES] if FILES else [], ids=lambda files: f"{len(files)} files")
def test_each_file_is_read_or_ends_its_run_with_2_and_its_name_and_costs_no_other_row(
    tmp_path: Path, files: list[str]
) -> None:
    kinds = check(tmp_path, files)
    assert len(kinds) == 3, kinds
    assert min(kinds.values()) > 5, kinds
