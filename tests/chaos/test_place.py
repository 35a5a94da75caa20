"""What the trials go by finds what it is for: rows lost, there twice or changed, files too many, rows seen again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.chaos.place import Place, Reference

pytestmark = pytest.mark.chaos


def first(place: Place, below: str) -> Path:
    return sorted((Path(place.output) / below).glob("*.parquet"))[0]


def lose_a_part(place: Place) -> None:
    first(place, "data").unlink()


def lose_a_dead_letter(place: Place) -> None:
    first(place, "_dead_letter").unlink()


def double_a_part(place: Place) -> None:
    part = first(place, "data")
    shutil.copy(part, part.with_name("part-9.parquet"))


def alter_a_part(place: Place) -> None:
    part = first(place, "data")
    table = pq.read_table(part)
    pq.write_table(table.set_column(table.column_names.index("y"), "y", [[0.0] * len(table)]), part)


def leave_a_temporary_file(place: Place) -> None:
    (Path(place.output) / "data/.part.tmp").write_bytes(b"")


def end_without_success(place: Place) -> None:
    (Path(place.output) / "data/_SUCCESS").unlink()


def see_a_row_again(place: Place) -> None:
    place.log.write_text(f"{place.log.read_text()}1\n")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, source: str) -> Place:
    place = Place(tmp_path_factory.mktemp("finished"), source)
    code, said = place.finish()
    assert code == 0, said
    return place


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lose_a_part, "lost"),
        (lose_a_dead_letter, "lost"),
        (double_a_part, "duplicated"),
        (alter_a_part, "changed"),
        (leave_a_temporary_file, "changed"),
        (end_without_success, "changed"),
        (see_a_row_again, "redo"),
    ],
)
def test_harm_is_found(
    finished: Place, reference: Reference, tmp_path: Path, harm: Callable[[Place], None], found: str
) -> None:
    place = Place(tmp_path, finished.source)
    shutil.copytree(finished.output, place.output)
    shutil.copy(finished.log, place.log)
    whole = place.compare(reference)
    assert whole.sound
    assert whole.redo == 0
    harm(place)
    harmed = place.compare(reference)
    assert getattr(harmed, found) > 0
    assert harmed.sound == (found == "redo")
