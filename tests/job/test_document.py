"""The YAML that is read: 1.2 scalars, and nothing that can surprise or explode."""

from __future__ import annotations

import math

import pytest

from batchinfer.errors import JobFileError
from batchinfer.job.document import MAX_DEPTH, parse
from batchinfer.job.load import load


def refusal(text: str) -> str:
    with pytest.raises(JobFileError) as refused:
        parse(text, "job.yaml")
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("yes", "yes"),
        ("y", "y"),
        ("2026-11-22", "2026-11-22"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-12", -12),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("'12'", "12"),
        ('"true"', "true"),
        ("|\n  12\n", "12\n"),
        ("[1, a]", [1, "a"]),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text, value):
    read = parse(f"key: {text}", "job.yaml").value["key"]
    assert (read, type(read)) == (value, type(value))


def test_every_key_and_item_has_its_line():
    lines = parse("a: 1\nb:\n  - x\n  - c: |\n      two\n      lines\n    d: 4\n", "job.yaml").lines
    assert lines[("b",)] == 2
    assert lines[("b", 1)] == 4
    assert lines[("b", 1, "c")] == 4
    assert lines[("b", 1, "d")] == 7


def test_a_billion_laughs_are_refused_at_once():
    lines = [
        "a: &a [x, x]",
        *(f"{n}: &{n} [*{p}, *{p}, *{p}, *{p}]" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    document = parse("\n".join(lines), "job.yaml")
    assert all("not allowed" in finding.message for finding in document.findings)
    assert document.value["i"] == [None] * 4


def test_a_file_over_one_mebibyte_is_refused(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("version: 1\n#" + "x" * 1024 * 1024)
    with pytest.raises(JobFileError, match="larger than 1 MiB"):
        load(path)
    path.write_bytes(b"a" * (1024 * 1024 - 1) + "é".encode() * 9)
    with pytest.raises(JobFileError, match="larger than 1 MiB"):
        load(path)


def test_a_file_with_very_many_values_is_refused():
    assert "50,000 values" in refusal("a: [" + "1," * 50_000 + "]")


def test_deep_nesting_is_refused():
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH, "job.yaml").value
    assert "32 levels" in refusal("[" * 5000 + "]" * 5000)
    assert "32 levels" in refusal("\n".join(" " * n + "a:" for n in range(40)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: write version"),
        (b"# only a comment\n", "is empty"),
        (b"---\n", "is empty"),
        (b"- a\n- b\n", "holds no mapping at its top"),
        (b"just text", "holds no mapping at its top"),
        (b"version: 1\nname: caf\xe9\n", "job.yaml:2: is not UTF-8"),
        (b"version: \x01\n", "character that YAML doesn't allow"),
        (b"version: 1\n? [a, b]\n: c\n", "a key must be plain text"),
    ],
)
def test_what_is_no_job_file_is_refused(tmp_path, content, message):
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(JobFileError) as refused:
        load(path)
    assert message in str(refused.value)


def test_a_missing_file_a_directory_and_an_impossible_name_are_refused(tmp_path):
    for path, message in [
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "is a directory"),
        (f"{tmp_path}/a\0b", "not a file name"),
        (tmp_path / ("x" * 300), "can't be read: File name too long"),
    ]:
        with pytest.raises(JobFileError) as refused:
            load(path)
        assert message in str(refused.value)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path, good):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + good().replace("\n", "\r\n").encode())
    assert load(path).name == "reviews"


def test_a_syntax_error_does_not_carry_the_text_along():
    with pytest.raises(JobFileError) as refused:
        parse('secret: "hunter2\n', "job.yaml")
    assert "hunter2" not in str(refused.value)
    assert refused.value.__context__ is None
