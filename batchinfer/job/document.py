"""From YAML text to plain values with the line of each; only the part of YAML that can't surprise or explode.

Read from the parser's events, so that nothing is ever constructed: no tags, no anchors and aliases, no duplicate keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from batchinfer.errors import JobFileError, Problem
from batchinfer.job.place import Finding, Place
from batchinfer.job.scalar import typed

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_VALUES = 50_000
"""The parser takes some seconds for as many; a file of a mebibyte could hold ten times more."""


@dataclass(frozen=True)
class Document:
    """The values of one YAML document."""

    value: Any
    """dict, list, str, int, float, bool or None, nested at most `MAX_DEPTH` deep."""
    lines: dict[Place, int]
    """The line, from 1, of every key and list item."""
    findings: list[Finding] = field(default_factory=list)
    """Mistakes beside which reading could go on."""


class _UnreadableError(Exception):
    """Reading can't go on."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def read(path: Path) -> str:
    """The text of a job file, or a `JobFileError`."""
    source = str(path)
    try:
        if path.is_dir():
            raise _refusal(source, "is a directory: give the job file inside it")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _refusal(source, "there is no such file; batchinfer init writes one to start from") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or "not a file name"
        raise _refusal(source, f"can't be read: {reason}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        if len(content) > MAX_BYTES:
            raise _refusal(source, _TOO_LARGE) from None
        raise _refusal(source, "is not UTF-8 text: save it as UTF-8", line) from None


def parse(text: str, source: str) -> Document:
    """The one document in the text. Raises `JobFileError` where reading can't go on."""
    try:
        _refuse_large(text)
        return _Reader(YAML(typ="safe", pure=True).parse(text)).document()
    except _UnreadableError as error:
        message, line = error.message, error.line
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else None
        message = _syntax(str(error.problem or error.context or ""), _line_of(text, line))
    except YAMLError:
        message, line = "has a character that YAML doesn't allow, such as NUL or another control character", None
    # Outside of the handlers, so that the parser's error with its piece of the text isn't carried along.
    raise _refusal(source, message, line)


def from_python(value: Any, source: str) -> Document:
    """A copy of Python values in the shapes that YAML gives; what YAML can't hold is left for validation to refuse."""
    findings: list[Finding] = []
    try:
        return Document(_plain(value, (), findings), {}, findings)
    except _UnreadableError as error:
        message = error.message
    raise _refusal(source, message)


def _plain(value: Any, place: Place, findings: list[Finding]) -> Any:
    if len(place) > MAX_DEPTH:
        raise _UnreadableError(f"is nested more than {MAX_DEPTH} levels deep", None)
    if isinstance(value, Mapping):
        kinds = sorted({type(key).__name__ for key in value if not isinstance(key, str)})
        findings += [Finding(place, f"has a key that is a Python {kind}: keys are text") for kind in kinds]
        return {k: _plain(inner, (*place, k), findings) for k, inner in value.items() if isinstance(k, str)}
    if isinstance(value, list | tuple):
        return [_plain(inner, (*place, index), findings) for index, inner in enumerate(value)]
    return str(value) if isinstance(value, PurePath) else value


class _Reader:
    """Builds values from the parser's events."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._lines: dict[Place, int] = {}
        self._findings: list[Finding] = []
        self._count = 0

    def document(self) -> Document:
        """The one document of the stream; an empty stream is null."""
        next(self._events)  # the start of the stream
        value: Any = None
        if isinstance(next(self._events), DocumentStartEvent):
            value = self._value(next(self._events), (), 1)
            next(self._events)  # the end of the document
            after = next(self._events)
            if not isinstance(after, StreamEndEvent):
                raise _UnreadableError(
                    "starts a second document here: a job file holds one, remove the ---", _line(after)
                )
        return Document(value, self._lines, self._findings)

    def _value(self, event: Event, place: Place, depth: int) -> Any:
        self._lines.setdefault(place, _line(event))
        self._count += 1
        if depth > MAX_DEPTH:
            raise _UnreadableError(f"is nested more than {MAX_DEPTH} levels deep", _line(event))
        if self._count > MAX_VALUES:
            raise _UnreadableError(f"holds more than {MAX_VALUES:,} values: data belongs elsewhere", _line(event))
        self._refuse_references(event, place)
        if isinstance(event, ScalarEvent):
            return event.value if event.style else typed(event.value)
        if isinstance(event, SequenceStartEvent):
            return self._list(place, depth)
        if isinstance(event, MappingStartEvent):
            return self._mapping(place, depth)
        return None  # an alias, already refused

    def _list(self, place: Place, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._value(event, (*place, len(items)), depth + 1))
        return items

    def _mapping(self, place: Place, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                raise _UnreadableError(
                    "a key must be plain text; a template is written ${NAME}, never {{ NAME }}", _line(event)
                )
            key, line = event.value, _line(event)
            inner = (*place, key)
            self._refuse_references(event, inner)
            if key in entries:
                self._findings.append(Finding(inner, "is given twice: keep one of them", line))
                self._value(next(self._events), (*inner, "again"), depth + 1)
                continue
            self._lines[inner] = line
            entries[key] = self._value(next(self._events), inner, depth + 1)
        return entries

    def _refuse_references(self, event: Event, place: Place) -> None:
        if isinstance(event, AliasEvent):
            message = "YAML aliases (*name) are not allowed; put a value that starts with * in quotes"
        elif isinstance(event, NodeEvent) and event.anchor is not None:
            message = "YAML anchors (&name) are not allowed; put a value that starts with & in quotes"
        elif getattr(event, "tag", None) is not None:
            message = "YAML tags (!name) are not allowed; put a value that starts with ! in quotes"
        else:
            return
        self._findings.append(Finding(place, message, _line(event)))


_TOO_LARGE = "is larger than 1 MiB: a job file describes a job, data belongs elsewhere"


def _refuse_large(text: str) -> None:
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise _UnreadableError(_TOO_LARGE, None)


def _refusal(source: str, message: str, line: int | None = None) -> JobFileError:
    return JobFileError(source, [Problem("", message, line)])


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1


def _line_of(text: str, line: int | None) -> str:
    lines = text.splitlines()
    return lines[line - 1] if line is not None and line <= len(lines) else ""


def _syntax(problem: str, line: str) -> str:
    """Our words for what the parser found; the line itself may hold a secret and only decides the advice."""
    if "${" in line and ("expected ','" in problem or "found character" in problem):
        return 'is not valid YAML: inside { } and [ ] put quotes around it: "${NAME}"'
    if "{{" in line:
        return "is not valid YAML: a template is written ${NAME}, never {{ NAME }}"
    if "'\\t'" in problem:
        return "is not valid YAML: indent with spaces, not tabs"
    if "that cannot start any token" in problem:
        return "is not valid YAML: put a value that starts with @, ` or % in quotes"
    if "mapping values are not allowed" in problem:
        return "is not valid YAML: a colon stands where none can; put a value with a colon and a space in quotes"
    if "could not find expected ':'" in problem:
        return "is not valid YAML: a key without a colon, or a line that is indented too little"
    if "end of stream" in problem or "<stream end>" in problem:
        return "is not valid YAML: a quote or bracket is opened and never closed"
    return "is not valid YAML: look at the indentation, brackets and quotes around this line"
