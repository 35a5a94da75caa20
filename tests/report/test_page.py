"""The page of a report: that it holds what the record says, needs nothing else, and takes whatever a record may hold."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from batchinfer.report.html.page import page
from batchinfer.report.record import RunRecord
from tests.report.records import NUMBERS, SEGMENTS, profile, record


class Reader(HTMLParser):
    """The text of a page, its elements, and what it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.loads = "", [], []
        self._skip = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._skip += tag in ("style", "script")
        self.loads += [
            value for name, value in attrs if name in ("src", "href", "xlink:href") and not value.startswith("#")
        ]

    def handle_endtag(self, tag):
        self._skip -= tag in ("style", "script")

    def handle_data(self, data):
        if not self._skip:
            self.text += data


def test_the_page_says_what_ran_what_became_of_the_rows_and_where_time_went():
    text = Reader(page(record())).text
    for told in (
        "reviews", "succeeded", "exit code 0", "2026-11-28 07:00 UTC to 2026-11-28 07:01 UTC",
        "10 rows/s", "990 succeeded", "10 dead", "7 filtered", "3 not attempted",
        "2 devices for 1 min 39 s, 200,000 device-seconds per million rows", "0.28",
        "package:m (torch)", "d" * 64, "f" * 64, "s3://lake/in", "a note",
        "reading", "preparing", "device waiting", "2 min 30 s · 81 %", "10.0 % padding",
        "1.0 GiB", "GPU 2.0 GiB", "worker 1",
        "ValueError", "too long: [hidden]", "s3://lake/a.parquet row 17",
        "label", "good", "odd", "60.0 %", "90.0 %", "the run of then", "3 nulls", "mend it",
    ):  # fmt: skip
        assert told in text, told


def test_the_page_loads_nothing_and_runs_nothing():
    html = page(record())
    found = Reader(html)
    assert found.loads == []
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert "url(" not in re.sub(r"url\(#", "", html)
    assert re.search(r"<meta http-equiv=.Content-Security-Policy. content=.default-src 'none'", html)


def test_plots_take_their_colours_from_the_page_in_light_and_in_dark():
    html = page(record())
    assert html.count("<svg") == 7
    assert "#fa0" not in html
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", part)) for part in html.split("prefers-color-scheme: dark", 1))
    used = set(re.findall(r"var\(--(\w+)\)", html))
    assert used <= light.keys()
    assert light.keys() == {*dark.keys()}
    assert all(light[name] != dark[name] for name in light)


def test_the_same_record_makes_the_same_page():
    assert page(record()) == page(record())


HOSTILE = '<script>alert(1)</script> $x_1$ \\frac & "quoted" 数据 \x00 ' + "long" * 40


def test_whatever_stands_in_names_labels_and_messages_is_text():
    numbers = {"name": HOSTILE, "type": HOSTILE, "kind": "number", "rows": 100, "numbers": NUMBERS}
    now = profile(**{HOSTILE: 60, "$": 30, "_": 10})
    now["columns"].append(numbers)
    group = {
        "error_class": HOSTILE,
        "error_type": HOSTILE,
        "message": HOSTILE,
        "rows": 1,
        "examples": [{"file": HOSTILE, "row": 1}],
    }
    html = page(
        record(
            name=HOSTILE,
            output=HOSTILE,
            errors=[HOSTILE],
            plan={"input": [HOSTILE], "steps": [{"name": HOSTILE, "rules": {HOSTILE: HOSTILE}}], "notes": [HOSTILE]},
            usage={"rows": 1, "steps": {HOSTILE: {"batch_rows": {"8": 3}}, "_other": {"batch_rows": {"4": 3}}}},
            models={HOSTILE: HOSTILE, "_other": "d"},
            dead_letters={"rows": 1, "looked_at": 1, "kinds": 1, "groups": [group]},
            predictions={"now": now, "before": now, "before_name": HOSTILE},
        )
    )
    assert "<script" not in html
    assert Reader(html).text.count("<script>alert(1)</script>") >= 10


@pytest.mark.parametrize("state", ["RUNNING", "SUCCEEDED", "PARTIAL", "FAILED", "INTERRUPTED", "CANCELLED"])
def test_a_record_of_an_earlier_version_or_of_a_run_that_never_got_far_has_a_page(state):
    assert state.lower()[:6] in page(RunRecord(state=state)).lower()


@pytest.mark.parametrize(
    "facts",
    [
        {"rows": {}, "throughput": [], "crew": [], "usage": {}, "seconds": 0.0, "settled": 0.0},
        {"seconds": 0.001, "settled": 0.0, "throughput": [[0.0, 0], [0.0, 1], [0.0, 2]]},
        {"seconds": 4e6, "throughput": [[0.0, 0], [1e6, 10**12], [4e6, 10**13]]},
        {"crew": [{"worker": n, "segments": SEGMENTS, "memory": 2**40} for n in range(500)]},
        {"predictions": {"now": profile(**{f"label {n}": 1 for n in range(200)})}},
        {"predictions": {"now": {**profile(), "columns": []}, "before": profile(good=1)}},
    ],
    ids=["nothing", "no time", "long", "many workers", "many labels", "no columns"],
)  # fmt: skip
def test_extremes_can_be_drawn(facts):
    html = page(record(**facts))
    assert html.rstrip().endswith("</html>")
    assert len(html) < 3_000_000


def test_beyond_as_many_workers_as_can_be_drawn_it_says_how_many_more_there_are():
    crew = [{"worker": n, "segments": SEGMENTS} for n in range(45)]
    assert "and 5 more workers" in Reader(page(record(crew=crew))).text


def test_of_normalised_vectors_a_direction_is_drawn_and_not_the_rounding_of_their_norm():
    norm = {**NUMBERS, "of": "norm", "mean": 1.0, "std": 1e-8}
    vector = {"name": "embedding", "type": "list", "kind": "vector", "rows": 100, "numbers": norm, "dimension": 3}
    direction = {"width": 0.25, "lefts": [-0.25, 0.0], "counts": [40, 60]}
    now = {**profile(), "columns": [{**vector, "means": [0, 0, 0], "directions": [direction]}]}
    assert "product with a fixed vector (their norm is 1)" in Reader(page(record(predictions={"now": now}))).text
