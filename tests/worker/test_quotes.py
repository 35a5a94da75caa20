"""What a message repeats of a row is hidden; what it says besides stays."""

from __future__ import annotations

from typing import Any

import pytest

from batchinfer.worker.quotes import without_values

TEXT = "Dear Sir, call Anna on +49-170-555 or write to anna@example.org before noon tomorrow"


@pytest.mark.parametrize(
    ("value", "message", "expected"),
    [
        (TEXT, f"no: {TEXT}!", "no: [hidden]!"),
        ('say "it"\n', "no: 'say \"it\"\\n'", "no: '[hidden]'"),
        (4929123412341234, "no 4929123412341234 here", "no [hidden] here"),
        (b"opaque!", "no opaque! here", "no [hidden] here"),
        ([1, ["inside it"]], "no inside it here", "no [hidden] here"),
        ({"a": {"b": "inside it"}}, "no inside it here", "no [hidden] here"),
        (TEXT, "no anna@example.org here", "no [hidden] here"),
        (TEXT, "no +49-170-555 here", "no [hidden] here"),
        (TEXT, "token 7 is 'before noon tomorr", "token 7 is '[hidden]"),
        (TEXT, "at Dear Sir, call Anna and before noon tomorrow", "at [hidden]and[hidden]"),
    ],
)
def test_what_a_message_repeats_of_a_row_is_hidden(value: Any, message: str, expected: str) -> None:
    assert without_values(message, [None, value]) == expected


@pytest.mark.parametrize("value", ["short", 12345, True, None, [], {}])
def test_short_values_are_words_that_a_message_needs(value: Any) -> None:
    message = "short of 12345: True, None, []"
    assert without_values(message, [value]) == message


@pytest.mark.parametrize("message", ["call tomorrow", "Sir, call Anna", "another@example.org", "at 0x7f31ab of 170"])
def test_words_that_a_row_has_too_stay(message: str) -> None:
    assert without_values(message, [TEXT]) == message
