"""Which values are secrets, and every spelling in which a text may repeat them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from batchinfer.job.credentials import literal_secrets, passwords_in_urls, storage_secrets
from batchinfer.job.secrets import HidingFormatter, Secrets, without_addresses

ODD = 'pä ss/w+rd\\ "it\'s"'
LINES = "first line, of a key that goes on\nsecond line, as long as that\nshort"


def hide(text: str, *values: str) -> str:
    return Secrets(frozenset(values)).hide(text)


@pytest.mark.parametrize(
    "spelled",
    [
        ODD,
        quote(ODD),
        quote(ODD, safe=""),
        quote_plus(ODD),
        repr(ODD)[1:-1],
        json.dumps(ODD)[1:-1],
        json.dumps(ODD, ensure_ascii=False)[1:-1],
    ],
)
def test_a_value_is_hidden_in_every_spelling(spelled: str) -> None:
    assert hide(f"<{spelled}>", ODD) == "<[hidden]>"


def test_a_long_line_of_a_value_is_hidden_alone_and_a_short_one_stays() -> None:
    first, second, short = LINES.splitlines()
    assert hide(f"{second}; {first}; {short}", LINES) == "[hidden]; [hidden]; short"


def test_a_value_that_was_tidied_before_is_hidden() -> None:
    value = "opaque 0x1234abcd value"
    assert hide(f"<{without_addresses(value)}>", value) == "<[hidden]>"


def test_of_two_values_the_longer_is_hidden_whole() -> None:
    assert hide("opaque-value", "opaque", "opaque-value") == "[hidden]"


def test_a_short_value_is_hidden_as_a_word_of_its_own_and_stays_inside_of_others() -> None:
    assert hide("q7x, (q7x) and xq7x1", "q7x") == "[hidden], ([hidden]) and xq7x1"


def test_what_an_end_cuts_off_is_hidden_also_where_its_beginning_stood_before() -> None:
    assert hide("cana, then canary-7…", "canary-7f3a") == "cana, then [hidden]…"


def test_variables_are_secrets_by_name_unless_they_lead_to_a_file(tmp_path: Path) -> None:
    environ = {
        "DB_PASSWORD": "opaque-1",
        "AWS_SECRET_ACCESS_KEY": "opaque-2",
        "MY_TOKEN": str(tmp_path),
        "API_KEY": "7 chars",
        "HOME": "/no/secret",
    }
    assert Secrets.of_environment(environ).values == {"opaque-1", "opaque-2"}


def test_a_password_in_an_address_of_the_environment_is_a_secret_under_whatever_name() -> None:
    environ = {"HTTPS_PROXY": "http://me:pass-of-proxy@proxy:3128", "DB": "x://u:short@h", "A": "s3://a@b:c/d@e"}
    assert Secrets.of_environment(environ).values == {"pass-of-proxy"}


def test_options_are_secrets_by_name_at_any_depth_from_three_characters() -> None:
    options: list[Any] = [
        {"api_key": "abc", "password": "ab", "x": "plain", "token": 5},
        [{"deep": [{"secret": {"any": ["inside"]}}]}],
    ]
    assert Secrets.of_options(options).values == {"abc", "inside"}


def test_storage_options_are_secrets_by_name_and_what_is_below_it() -> None:
    storage = {
        "s3://keys/": {"endpoint_url": "http://h", "key": "abc", "client_kwargs": {"secret": {"x": ["one", "two"]}}},
        "gs://b/": {"token": "anon", "project": "p", "secure_token": True},
    }
    assert sorted(storage_secrets(storage)) == ["abc", "one", "two"]


def test_a_password_in_a_url_is_refused_wherever_a_url_may_stand() -> None:
    url = "s3://me:opaque@host/x"
    data = {
        "input": {"path": ["/plain", url]},
        "output": {"path": url},
        "steps": [{"uri": "m:C"}, {"uri": url}],
        "storage": {"s3://x/": {"endpoint_url": url}},
    }
    places = [("input", "path", 1), ("output", "path"), ("steps", 1, "uri")]
    assert [finding.place for finding in passwords_in_urls(data)] == places
    assert [finding.place for finding in literal_secrets(data, {})] == [("storage", "s3://x/", "endpoint_url")]


def test_a_log_line_is_hidden_with_the_exception_that_it_tells() -> None:
    error = (ValueError, ValueError("opaque-value"), None)
    record = logging.LogRecord("m", logging.WARNING, "m.py", 1, "said %s", ("opaque-value",), error)
    line = HidingFormatter(Secrets(frozenset({"opaque-value"}))).format(record)
    assert line.startswith("WARNING m: said [hidden]\n")
    assert line.endswith("ValueError: [hidden]")
