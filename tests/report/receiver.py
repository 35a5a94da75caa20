"""A small real HTTP server that keeps the OpenLineage events that come, and a check of these by OpenLineage's own classes."""

from __future__ import annotations

import enum
import functools
import importlib
import json
import pkgutil
import threading
import time
import types
import typing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attr
from openlineage.client import generated


class Receiver:
    """While it is open, keeps what is posted to it.

    Args:
        status: what it answers with.
        delay: seconds before it answers.

    """

    def __init__(self, status: int = 201, delay: float = 0.0) -> None:
        self.status, self.delay = status, delay
        self.bodies: list[str] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    @property
    def kinds(self) -> list[str]:
        return [event["eventType"] for event in self.events]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver.bodies.append(body)
                receiver.paths.append(self.path)
                receiver.keys.append(self.headers["Authorization"])
                time.sleep(receiver.delay)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def mistakes(event: dict[str, Any]) -> list[str]:
    """Where an event, as it came over the wire, isn't of the classes that OpenLineage makes from its schemas, nor a facet of it."""
    found = _mistakes(event, _classes()[event["schemaURL"]], "event")
    for value in (event["run"], event["job"], *event["inputs"], *event["outputs"]):
        for group in ("facets", "inputFacets", "outputFacets"):
            for name, facet in value.get(group, {}).items():
                found += _mistakes(facet, _classes()[facet["_schemaURL"]], name)
    return found


_OPEN = ("BaseFacet", "RunFacet", "JobFacet", "DatasetFacet")
"""Of facets of one's own, which may have anything."""


@functools.cache
def _classes() -> dict[str, type]:
    """By the URL of its schema, each class of OpenLineage's client."""
    modules = [
        importlib.import_module(f"{generated.__name__}.{m.name}") for m in pkgutil.iter_modules(generated.__path__)
    ]
    classes = [
        c for module in modules for c in vars(module).values() if isinstance(c, type) and hasattr(c, "_get_schema")
    ]
    return {c._get_schema(): c for c in classes}


def _mistakes(value: Any, kind: Any, at: str) -> list[str]:
    """Where a value isn't of a type. Facets are looked at for themselves."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or at.endswith(("acets", "acets]")):
        return []
    if origin in (types.UnionType, typing.Union):
        return [] if any(not _mistakes(value, each, at) for each in arguments) else [f"{at}: {value!r} is no {kind}"]
    if attr.has(kind):
        if not isinstance(value, dict):
            return [f"{at}: {value!r} is no {kind.__name__}"]
        hints = typing.get_type_hints(kind)
        needed = {f.name for f in attr.fields(kind) if f.default is attr.NOTHING}
        found = [f"{at}: {name} is missing" for name in needed - value.keys()]
        for name, inner in value.items():
            if name in hints:
                found += _mistakes(inner, hints[name], f"{at}.{name}")
            elif kind.__name__ not in _OPEN:
                found.append(f"{at}: {name} is unknown")
        return found
    if origin is list and isinstance(value, list):
        return [m for each in value for m in _mistakes(each, arguments[0], f"{at}[]")]
    if origin is dict and isinstance(value, dict):
        return [m for name, each in value.items() for m in _mistakes(each, arguments[1], f"{at}.{name}")]
    number = kind is float and type(value) is int
    plain = origin or kind
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return [] if value in [each.value for each in plain] else [f"{at}: {value!r} is no {plain.__name__}"]
    return [] if type(value) is plain or number else [f"{at}: {value!r} is no {plain}"]
