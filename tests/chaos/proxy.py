"""An HTTP proxy between the program and a storage service that fails as its rules say."""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

STATUS = {
    "503": (503, "SlowDown"),
    "500": (500, "InternalError"),
    "429": (429, "TooManyRequests"),
    "409": (409, "ConditionalRequestConflict"),
    "412": (412, "PreconditionFailed"),
    "403": (403, "AccessDenied"),
}
FAULTS = (*STATUS, "reset", "stall", "truncate", "lost")
_HOP_BY_HOP = {"host", "connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


@dataclass
class Rule:
    """What happens to which requests."""

    fault: str
    """A status from STATUS; `reset` before the request is passed on; `stall`; `truncate`: half of the reply, then a reset; `lost`: the
    request is carried out and its reply cut; `blind`: the condition of a create is taken away."""
    verb: str = ".*"
    path: str = ".*"
    chance: float = 1.0
    times: int = 1_000_000_000
    seconds: float = 20.0
    hits: int = field(default=0, init=False)


class Proxy:
    """Runs in a thread of this process, on a port of its own; a context."""

    def __init__(self, backend: str, seed: int = 0) -> None:
        self.backend = backend
        self.rules: list[Rule] = []
        self.requests: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy", daemon=True)
        self.url = ""

    def __enter__(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def leave(self) -> None:
        """Go away for good: connections are refused from now on."""
        asyncio.run_coroutine_threadsafe(self._site.stop(), self._loop).result(30)
        self.rules.insert(0, Rule("reset"))  # for connections that are kept alive

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=120))
        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await self._site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def _fault(self, request: web.Request) -> Rule | None:
        for rule in self.rules:
            if (
                rule.hits < rule.times
                and re.fullmatch(rule.verb, request.method)
                and re.search(rule.path, request.raw_path)
                and self._random.random() < rule.chance
            ):
                rule.hits += 1
                self.struck[rule.fault] += 1
                return rule
        return None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests[request.method] += 1
        rule = self._fault(request)
        fault = rule.fault if rule else ""
        if fault in STATUS:
            await request.read()
            status, code = STATUS[fault]
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>by the proxy</Message></Error>"
            return web.Response(status=status, body=body.encode(), content_type="application/xml")
        if fault == "reset":
            return self._cut(request)
        if rule is not None and fault == "stall":
            await asyncio.sleep(rule.seconds)
        status, headers, body = await self._forward(request, blind=fault == "blind")
        if fault == "lost":
            return self._cut(request)
        if fault == "truncate" and len(body) > 1:
            return await self._truncated(request, status, headers, body)
        if request.method == "HEAD":
            response = web.StreamResponse(status=status, headers=headers)
            await response.prepare(request)
            return response
        headers.popall("Content-Length", None)
        return web.Response(status=status, headers=headers, body=body)

    async def _forward(self, request: web.Request, *, blind: bool) -> tuple[int, Any, bytes]:
        dropped = {*_HOP_BY_HOP, "if-none-match"} if blind else _HOP_BY_HOP
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in dropped]
        headers.append(("Host", request.host))
        url = URL(self.backend + request.raw_path, encoded=True)
        body = await request.read()
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as reply:
            kept = reply.headers.copy()
            for name in ("Transfer-Encoding", "Connection", "Server", "Date"):
                kept.popall(name, None)
            return reply.status, kept, await reply.read()

    @staticmethod
    def _cut(request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)  # goes nowhere

    async def _truncated(self, request: web.Request, status: int, headers: Any, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        if request.transport is not None:
            request.transport.close()
        return response
