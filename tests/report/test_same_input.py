"""Which rows of two jobs are the same row of the input."""

from __future__ import annotations

import gc
import itertools
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from batchinfer.data.inputs import InputFile
from batchinfer.data.stream import FileStream
from batchinfer.report.numbered_rows import NumberedRows
from batchinfer.report.same_input import Matched, Span, matched
from tests.report.shadows import Shadows


def file(name: str, rows: int = 100, footer: str = "") -> InputFile:
    return InputFile(f"/in/{name}", 10 * rows, "1", footer or name, rows)


def whole(*files: InputFile) -> list[Span]:
    """A job that numbers all rows of these files in turn."""
    spans, number = [], 0
    for each in files:
        spans.append(Span(each, 0, each.rows, number))
        number += each.rows
    return spans


def test_files_are_known_in_any_order_and_elsewhere() -> None:
    first, second = whole(file("a"), file("b", 50)), whole(replace(file("b", 50), path="/x/z"), file("c"), file("a"))
    assert matched(first, second) == [Matched(0, 150, 100), Matched(100, 0, 50)]


def test_of_files_with_equal_footers_each_is_matched_with_one() -> None:
    copies = [file(name, footer="same") for name in "abc"]
    assert matched(whole(*copies), whole(*copies)) == [
        Matched(0, 0, 100),
        Matched(100, 100, 100),
        Matched(200, 200, 100),
    ]
    assert matched(whole(*copies), whole(*copies[:2])) == [Matched(0, 0, 100), Matched(100, 100, 100)]


def test_rows_of_a_file_that_a_job_numbers_in_pieces_are_found() -> None:
    a = file("a")
    pieces = [Span(a, 60, 40, 0), Span(a, 0, 30, 40), Span(a, 30, 30, 900)]
    assert matched(whole(a), pieces) == [Matched(0, 40, 30), Matched(30, 900, 30), Matched(60, 0, 40)]
    assert matched(pieces, whole(a)) == [Matched(0, 60, 40), Matched(40, 0, 30), Matched(900, 30, 30)]


@given(st.sets(st.integers(1, 99)), st.sets(st.integers(1, 99)), st.permutations(range(5)), st.integers(1, 100))
def test_however_a_file_is_cut_each_of_its_rows_is_matched_once(
    cuts: set[int], others: set[int], order: list[int], limit: int
) -> None:
    a = file("a")

    def job(cuts: set[int], stop: int, order: list[int]) -> list[Span]:
        edges = sorted({0, stop, *(c for c in cuts if c < stop)})
        pieces = list(itertools.pairwise(edges))
        pieces = [p for n in order for p in pieces[n :: len(order)]]
        spans, number = [], 7
        for start, end in pieces:
            spans.append(Span(a, start, end - start, number))
            number += end - start + 3
        return spans

    def numbers(spans: list[Span]) -> dict[int, int]:
        return {s.number + n: s.start + n for s in spans for n in range(s.rows)}

    first, second = job(cuts, 100, order), job(others, limit, [0])
    found = [(m.first + n, m.second + n) for m in matched(first, second) for n in range(m.rows)]
    one, two = numbers(first), numbers(second)
    assert sorted(one[x] for x, _ in found) == list(range(limit))
    assert all(one[x] == two[y] for x, y in found)


def test_an_output_is_read_with_few_of_its_parts_open(tmp_path: Path) -> None:
    shadows = Shadows(tmp_path)
    shadows.workplace.write(6000)
    sections = shadows.sections("one", {"bad": list(range(0, 6000, 100))}, {"batching": {"window": 100, "shard": 300}})
    shadows.workplace.run(**sections)
    sections["model"]["options"] = {}
    run = shadows.workplace.retry(**sections)
    rows = NumberedRows(run.standing(), ["id"])
    assert len(run.standing().parts) > 20
    read: list[int] = []
    gc.collect()
    others = {id(o) for o in gc.get_objects() if isinstance(o, FileStream)}  # of tests before this one
    for start in range(0, rows.stop, 250):
        read += rows.read(start, start + 250).table["id"].to_pylist()
        assert sum(isinstance(o, FileStream) and id(o) not in others for o in gc.get_objects()) <= 3
    assert read == list(range(6000))
