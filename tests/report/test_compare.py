"""Two outputs of the same input: which rows are the same, and how they agree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchinfer
from batchinfer.errors import OutputError, RefusedError
from batchinfer.report import paired_rows
from batchinfer.report.agreement import ColumnAgreement
from batchinfer.report.comparison import Comparison
from tests.report.shadows import Shadows


@pytest.fixture
def shadows(tmp_path: Path) -> Shadows:
    return Shadows(tmp_path)


def column(made: Comparison, name: str) -> ColumnAgreement:
    (found,) = [c for c in made.columns if c.column == name]
    return found


def test_equal_outputs_agree_in_every_row(shadows: Shadows) -> None:
    shadows.workplace.write(3000)
    one, two = shadows.run("one"), shadows.run("two")
    made = one.compare(two, min_agreement=1.0, max_drift=0.0)
    assert (made.exit_code, made.rows.both, made.rows.judged) == (0, 3000, 3000)
    assert [(c.column, c.kind, c.agreeing) for c in made.columns] == [
        ("label", "label", 3000),
        ("score", "number", 3000),
    ]
    assert made.most_different == ()
    assert column(made, "label").figures["kappa"] == 1


def test_what_differs_is_counted_and_the_rows_that_differ_most_are_named(shadows: Shadows) -> None:
    shadows.workplace.write(1000)
    made = shadows.run("one").compare(shadows.run("two", {"least": 600, "off": 0.5}), top=3)
    label, score = column(made, "label"), column(made, "score")
    assert (label.rows, label.agreeing, label.confusion) == (1000, 900, (("high", "low", 100),))
    assert made.share(label) == 0.9
    assert score.agreeing == 0
    assert score.figures["mean_difference"] == pytest.approx(0.5)
    assert score.figures["max_absolute_difference"] == pytest.approx(0.5)
    assert [(row.column, row.difference) for row in made.most_different] == [("label", 1.0)] * 3
    assert {int(row.key or -1) for row in made.most_different} <= set(range(500, 600))
    assert made.most_different[0].row == int(made.most_different[0].key or -1)
    assert made.drift is not None
    far = {c.column: c.distance.total_variation for c in made.drift.columns}
    assert far["label"] == pytest.approx(0.1)
    assert far["score"] > 0.4


def test_numbers_agree_within_the_tolerance_of_their_spread(shadows: Shadows) -> None:
    shadows.workplace.write(1000)  # scores spread evenly over 0..1, by a deviation of 0.29
    one, two = shadows.run("one"), shadows.run("two", {"off": 0.01})
    assert column(one.compare(two, tolerance=0.03), "score").agreeing == 0
    assert column(one.compare(two, tolerance=0.04), "score").agreeing == 1000


def test_values_are_in_a_comparison_only_where_they_were_asked_for(shadows: Shadows) -> None:
    shadows.workplace.write(1000)
    one, two = shadows.run("one"), shadows.run("two", {"least": 501})
    silent, shown = one.compare(two), one.compare(two, show=True)
    assert silent.most_different[0].values == {}
    assert shown.most_different[0].values == {"label": ("high", "low"), "score": ("0.5", "0.5")}
    assert "values" not in silent.to_json()["most_different"][0]


def test_dead_rows_agree_in_no_column_and_are_told_apart(shadows: Shadows) -> None:
    shadows.workplace.write(1000)
    one = shadows.run("one", {"bad": [1, 2, 3]})
    two = shadows.run("two", {"bad": [3, 4]})
    made = one.compare(two)
    rows = made.rows
    assert (rows.both, rows.only_first, rows.only_second) == (996, 1, 2)
    assert (rows.dead_in_first, rows.dead_in_second, rows.dead_in_both) == (2, 1, 1)
    assert made.share(column(made, "label")) == pytest.approx(996 / 999)
    assert (one.compare(two, min_agreement=0.99).exit_code, one.compare(two, min_agreement=0.999).exit_code) == (0, 3)
    assert one.compare(two, key="id").rows == rows


def test_rows_of_a_retry_stand_at_their_places(shadows: Shadows) -> None:
    shadows.workplace.write(5000)
    one = shadows.run("one")
    sections = shadows.sections("two", {"bad": [7, 2500, 4999]}, {})
    two = shadows.workplace.run(**sections)
    assert two.counts.dead == 3
    sections["model"]["options"] = {}
    two = shadows.workplace.retry(**sections)
    assert two.counts.succeeded == 5000
    made = one.compare(two, min_agreement=1.0)
    assert (made.exit_code, made.rows.both, column(made, "score").agreeing) == (0, 5000, 5000)


def test_an_extension_is_compared_with_the_rows_that_both_have(shadows: Shadows) -> None:
    shadows.workplace.write(2500, name="a")
    sections = {"run": {"inputs_changed": "extend"}}
    shadows.run("one", **sections)
    two = shadows.run("two")
    shadows.workplace.write(1500, name="b", start=2500)
    one = shadows.run("one", **sections)
    assert one.counts.succeeded == 4000
    made = one.compare(two)
    assert (made.rows.both, made.rows.only_first, column(made, "label").agreeing) == (2500, 1500, 2500)


def test_filtered_rows_are_in_one_output_alone_and_count_against_nothing(shadows: Shadows) -> None:
    shadows.workplace.write(3000)
    one = shadows.run("one", input={"where": "id % 3 > 0"})
    two = shadows.run("two", input={"where": "id % 2 > 0"})
    made = one.compare(two, min_agreement=1.0)
    assert (made.exit_code, made.rows.both) == (0, 1000)
    assert (made.rows.only_first, made.rows.only_second) == (1000, 500)
    assert column(made, "score").agreeing == 1000


def test_files_that_were_moved_and_come_in_another_order_are_known_again(shadows: Shadows) -> None:
    for name, start in (("a", 0), ("b", 1200), ("c", 2000)):
        shadows.workplace.write(1200 if name == "a" else 800, name=name, start=start)
    one = shadows.run("one", input={"key": None}, output={"carry": "none"})
    elsewhere = shadows.folder / "elsewhere"
    elsewhere.mkdir()
    for name, other in (("a", "z"), ("b", "y"), ("c", "x")):
        shutil.copy(shadows.folder / f"input/{name}.parquet", elsewhere / f"{other}.parquet")
    two = shadows.run("two", input={"path": str(elsewhere), "key": None}, output={"carry": "none"})
    made = one.compare(two)
    assert (made.rows.both, column(made, "score").agreeing) == (2800, 2800)
    assert "place in the input" in made.joined_by


def test_files_of_equal_content_are_each_compared_with_one(shadows: Shadows) -> None:
    shadows.workplace.write(700, name="a")
    shutil.copy(shadows.folder / "input/a.parquet", shadows.folder / "input/b.parquet")
    made = shadows.run("one").compare(shadows.run("two"))
    assert (made.rows.both, made.rows.only_first) == (1400, 0)


def test_other_files_with_the_same_key_are_joined_by_it(shadows: Shadows) -> None:
    shadows.workplace.write(2000)
    one = shadows.run("one", {"bad": [10]})
    other = shadows.folder / "other.parquet"
    table = pq.read_table(shadows.folder / "input/a.parquet")
    pq.write_table(table.take(pa.array(range(1999, 499, -1))).append_column("more", pa.nulls(1500)), other)
    two = shadows.run("two", {"bad": [600, 1600]}, input={"path": str(other)})
    made = one.compare(two)
    assert made.joined_by == "the key 'id'"
    assert (made.rows.both, made.rows.only_first, made.rows.only_second) == (1498, 501, 0)
    assert (made.rows.dead_in_first, made.rows.dead_in_second) == (0, 2)
    assert column(made, "score").agreeing == 1498


def test_a_join_by_key_over_many_partitions_is_that_over_one(shadows: Shadows, monkeypatch: pytest.MonkeyPatch) -> None:
    shadows.workplace.write(3000)
    one, two = shadows.run("one"), shadows.run("two", {"least": 800})
    whole = one.compare(two, key="id")
    monkeypatch.setattr(paired_rows, "_PARTITION_BYTES", 1000)
    divided = one.compare(two, key="id")
    assert (divided.rows, divided.columns) == (whole.rows, whole.columns)
    assert column(divided, "label").confusion == (("high", "low", 300),)


def test_a_key_that_names_several_rows_is_refused(shadows: Shadows) -> None:
    shadows.workplace.write(900, name="a")
    shadows.workplace.write(900, name="b")
    one, two = shadows.run("one"), shadows.run("two")
    assert one.compare(two).rows.both == 1800
    with pytest.raises(RefusedError, match="does not name a row"):
        one.compare(two, key="id")


def test_outputs_of_different_inputs_without_a_key_are_refused(shadows: Shadows) -> None:
    shadows.workplace.write(900, name="a")
    one = shadows.run("one", input={"key": None})
    shadows.workplace.write(900, name="a", group=100)
    two = shadows.run("two", input={"key": None})
    with pytest.raises(RefusedError, match=r"different inputs.*--key"):
        one.compare(two)
    assert one.compare(two, key="id").rows.both == 900
    with pytest.raises(RefusedError, match="don't carry the column 'ix'; did you mean 'x'"):
        one.compare(two, key="ix")


def test_columns_are_those_of_both_and_a_missing_one_is_told(shadows: Shadows) -> None:
    shadows.workplace.write(500)
    one = shadows.run("one")
    two = shadows.workplace.run(output={"path": str(shadows.folder / "two")})
    with pytest.raises(RefusedError, match="no predicted column in common"):
        one.compare(two)
    with pytest.raises(RefusedError, match="did you mean 'label'"):
        one.compare(one, columns=["labels"])
    assert [c.column for c in one.compare(two, columns=["id"]).columns] == ["id"]


def test_outputs_without_a_row_are_compared_to_nothing(shadows: Shadows) -> None:
    shadows.workplace.write(500)
    none = shadows.run("none", input={"where": "id < 0"})
    one = shadows.run("one")
    made = none.compare(none, min_agreement=1, max_drift=0)
    assert (made.exit_code, made.rows.both, made.drift) == (0, 0, None)
    made = one.compare(none, min_agreement=0.5)
    assert (made.exit_code, made.exceeded) == (3, ("no row is predicted by both outputs",))


def test_windows_and_shards_do_not_show(shadows: Shadows, monkeypatch: pytest.MonkeyPatch) -> None:
    shadows.workplace.write(4321, bad=set())
    one, two = shadows.run("one"), shadows.run("two", {"least": 70}, batching={"rows": 7, "window": 300, "shard": 900})
    whole = one.compare(two)
    monkeypatch.setattr(paired_rows, "WINDOW", 77)
    cut = one.compare(two)
    assert cut.rows == whole.rows
    assert column(cut, "label") == column(whole, "label")
    assert column(cut, "label").confusion == (("low", "high", 430),)
    assert [r.difference for r in cut.most_different] == [r.difference for r in whole.most_different]


def test_an_output_that_has_not_come_to_its_end_is_compared_as_far_as_it_is(shadows: Shadows) -> None:
    shadows.workplace.write(6000)
    one, two = shadows.run("one"), shadows.run("two")
    (manifest,) = (shadows.folder / "two").glob("_batchinfer/*/manifests/0001.json")
    manifest.unlink()
    (shadows.folder / "two/data/_SUCCESS").unlink()
    sorted((shadows.folder / "two/data").glob("*.parquet"))[1].unlink()
    made = one.compare(two)
    assert (made.rows.both, made.rows.only_first, column(made, "score").agreeing) == (4000, 2000, 4000)
    assert "two has not come to its end: 2,000 of its rows" in made.notes[0]
    assert one.compare(one).notes == ()


def test_a_damaged_part_and_no_output_are_refused(shadows: Shadows) -> None:
    shadows.workplace.write(3000)
    one, two = shadows.run("one"), shadows.run("two")
    part = sorted((shadows.folder / "two/data").glob("*.parquet"))[0]
    data = bytearray(part.read_bytes())
    page = pq.read_metadata(part).row_group(0).column(2).data_page_offset
    data[page + 40 : page + 80] = b"\0" * 40
    part.write_bytes(data)
    with pytest.raises(OutputError, match="damaged"):
        one.compare(two)
    part.unlink()
    with pytest.raises(OutputError, match="gone"):
        one.compare(two)
    with pytest.raises(OutputError, match="no job"):
        batchinfer.compare(one, shadows.folder / "nowhere")


def test_a_comparison_reads_well_in_a_notebook(shadows: Shadows) -> None:
    shadows.workplace.write(1000)
    shadows.run("one")
    shadows.run("two", {"least": 750})
    made = batchinfer.compare(shadows.folder / "one", shadows.folder / "two", max_drift=0.2)
    assert repr(made) == ("Comparison(1,000 rows in both, agreement: label 75.00 %, score 100 %; 1 beyond the bounds)")
    assert "<td>label</td><td>label</td><td>75.00 %</td><td>0.250</td>" in made._repr_html_()
