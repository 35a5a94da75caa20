"""What no text may repeat: values from the environment and credentials; and texts without them."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from batchinfer.errors import BatchinferError
from batchinfer.job import credentials

SHORTEST = 6
"""Shorter values are words such as `auto` and `true`, which texts can't do without."""
SHORTEST_NAMED = 3
"""Of a value under the name of a secret. One below SHORTEST is hidden where it stands as a word of its own."""
_SHORTEST_VARIABLE = 8
_NAME = re.compile(
    r"(?:.*[_.-])?(?:secret|token|sas|credentials?|connection_string|(?:api|access|account|private|secret|storage)_?key(?:_id)?)"
    r"|.*(?:password|passwd|passphrase)",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"://[^\s/@:'\"]*:([^\s/@'\"]+)@")
_SHORTEST_PIECE = 4
_LONG_LINE = 16
HIDDEN = "[hidden]"
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,16}\b")
_CREDENTIALS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://)[^\s/@:'\"]*:[^\s/@'\"]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (
        re.compile(
            r"(?i)\b((?:X-Amz-(?:Signature|Credential|Security-Token)|sig|signature|AWSAccessKeyId)=)[^\s&'\"]+"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(?:hf_|ghp_|gho_|github_pat_|sk-|xox[abp]-|AIza)[A-Za-z0-9_-]{10,}"), HIDDEN),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"), HIDDEN),
    (
        re.compile(
            r"(?i)(\b(?:[a-z0-9_.-]{0,40}[_-])?(?:password|passwd|secret|token|api_?key|access_?key|account_?key|secret_?access_?key)(?:['\"]?\s{0,3}=\s{0,3}['\"]?|['\"]\s{0,3}:\s{0,3}['\"]))[^\s'\",;&]{4,}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        HIDDEN,
    ),
)
"""What looks like a credential wherever it comes from."""


@dataclass(frozen=True)
class Secrets:
    """What no message may repeat. Travels in memory, to workers too, and is never recorded."""

    values: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Secrets:
        """The variables with the name of a secret, such as AWS_SECRET_ACCESS_KEY; not those that lead to a file. And passwords in addresses."""
        named = {value for name, value in environ.items() if is_named_secret(name) and not _is_file(value)}
        named.update(found for value in environ.values() for found in _PASSWORD.findall(value))
        return cls(frozenset(value for value in named if len(value) >= _SHORTEST_VARIABLE))

    @classmethod
    def of_options(cls, sections: Iterable[Any]) -> Secrets:
        """The texts under the name of a secret, such as `api_key`, at any depth of these mappings and lists."""
        return cls(frozenset(v for v in _named(sections, secret=False) if len(v) >= SHORTEST_NAMED))

    @classmethod
    def of_storage(cls, storage: Mapping[str, Mapping[str, Any]]) -> Secrets:
        """The texts of fsspec options by URL prefix that may be credentials, by their key."""
        found = credentials.storage_secrets(storage)
        return cls(frozenset(v for v in found if isinstance(v, str) and len(v) >= SHORTEST_NAMED))

    def __or__(self, other: Secrets) -> Secrets:
        return Secrets(self.values | other.values)

    @cached_property
    def _spellings(self) -> list[str]:
        """The values as they stand in texts, in URLs and in quotes, longer ones first."""
        found: set[str] = set()
        for value in self.values:
            lines = [line for line in value.splitlines() if len(line) >= _LONG_LINE]
            for text in (value, *lines):
                found |= {text, quote(text), quote(text, safe=""), quote_plus(text), repr(text)[1:-1]}
                found |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        # Texts may come tidied: without what looks like the address of an object, or like a credential.
        found |= {tidied for text in found for tidied in (without_addresses(text), without_credentials(text))} - {
            HIDDEN
        }
        return sorted(found, key=lambda text: (-len(text), text))

    def hide(self, text: str) -> str:
        """The text with each value hidden, the beginning of one that the text's end cuts off, and what looks like a credential."""
        for value in self._spellings:
            if value in text:
                text = text.replace(value, HIDDEN) if len(value) >= SHORTEST else _without_word(text, value)
        if text.endswith("…"):
            for value in self._spellings:
                if (at := _cut_off(text[:-1], value)) is not None:
                    text = f"{text[:at]}{HIDDEN}…"
        return without_credentials(text)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Take the values out of whatever exception the block raises, and of those behind it."""
        try:
            yield
        except BaseException as e:
            told = [each for each in _chain(e) if not self._clean(each)]
            if told:
                text = f"{type(e).__name__}: {self.hide(_text(e))}"
                raise BatchinferError(text) from None  # it words itself, and would say it again
            raise

    def _clean(self, error: BaseException) -> bool:
        """Whether the exception's text is free of the values, after they were taken out of what it is made of."""
        error.args = tuple(self._cleaned(argument) for argument in error.args)
        if isinstance(error, OSError):
            for name in ("strerror", "filename", "filename2"):
                if isinstance(value := getattr(error, name), str):
                    setattr(error, name, self.hide(value))
        if notes := getattr(error, "__notes__", None):
            notes[:] = [self.hide(note) for note in notes]
        text = _text(error)
        return self.hide(text) == text

    def _cleaned(self, argument: object) -> object:
        text = _text(argument)
        hidden = self.hide(text)
        return argument if hidden == text else hidden


class HidingFormatter(logging.Formatter):
    """Log lines without secrets."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The line, with what it says of an exception."""
        return self._secrets.hide(super().format(record))


def without_credentials(text: str) -> str:
    """The text with everything hidden that looks like a credential, such as a signature or a password in an address."""
    for pattern, replacement in _CREDENTIALS:
        text = pattern.sub(replacement, text)
    return text


def without_addresses(text: str) -> str:
    """The text without the addresses of objects, which differ from run to run."""
    return _ADDRESS.sub("0x…", text)


def is_named_secret(name: str) -> bool:
    """Whether what a variable or a key of this name holds is most likely a secret."""
    return _NAME.fullmatch(name) is not None


def _named(value: Any, *, secret: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named(inner, secret=secret or is_named_secret(str(key)))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(inner, secret=secret)
    elif secret and isinstance(value, str):
        yield value


def _is_file(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # too long, or no path at all
        return False


def _without_word(text: str, word: str) -> str:
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", HIDDEN, text)


def _cut_off(text: str, value: str) -> int | None:
    """Where a value begins that the text's end cuts off."""
    at = text.find(value[:_SHORTEST_PIECE])
    while at >= 0 and len(text) - at >= _SHORTEST_PIECE:
        if value.startswith(text[at:]):
            return at
        at = text.find(value[:_SHORTEST_PIECE], at + 1)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and all behind it, each once."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - of a library or of the user's own
        return ""
