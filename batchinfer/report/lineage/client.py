"""OpenLineage's client as the job file, its variables and its file configure it. Events leave without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attr
from openlineage.client import OpenLineageClient
from openlineage.client.transport import Transport

from batchinfer.errors import RefusedError
from batchinfer.job.report import OpenLineage
from batchinfer.job.secrets import Secrets

if TYPE_CHECKING:
    from openlineage.client.client import Event


def open_client(asked: OpenLineage | None, environ: Mapping[str, str], secrets: Secrets) -> OpenLineageClient:
    """The client.

    Args:
        asked: of the job file; None: as variables and files have it.
        environ: the process's environment, which the client reads by itself too.
        secrets: what no event may hold.

    Raises:
        RefusedError: it says nowhere to send events to, or not in a way that the client takes.

    """
    transport = _transport(asked, environ)
    try:
        client = OpenLineageClient(config={"transport": transport} if transport else None)
        settings = client.config.transport or {}
    except Exception as error:  # noqa: BLE001 - of whatever transport it is
        text = secrets.hide(f"{type(error).__name__}: {error}")
    else:
        if client.transport.kind != "console" or settings.get("type") == "console":
            client.transport = _Hiding(client.transport, secrets)
            return client
        text = "nothing says where events go: give url or transport, or set OPENLINEAGE_URL"
    # Outside of the handler, whose exception may hold what is hidden here.
    raise RefusedError(f"report.openlineage: {text}")


def _transport(asked: OpenLineage | None, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The client's configuration of where events go, in its own words; None: the client finds it."""
    if asked is None or asked.url is None:
        return None if asked is None else asked.transport
    transport: dict[str, Any] = {"type": "http", "url": asked.url}
    if endpoint := environ.get("OPENLINEAGE_ENDPOINT"):
        transport["endpoint"] = endpoint
    if key := environ.get("OPENLINEAGE_API_KEY"):
        transport["auth"] = {"type": "api_key", "apiKey": key}
    return transport


class _Hiding(Transport):
    """A transport that takes secrets out of events: the last one to see them, after the client has added what it is told to."""

    def __init__(self, inner: Transport, secrets: Secrets) -> None:
        self.kind = inner.kind
        self._inner, self._secrets = inner, secrets

    def emit(self, event: Event) -> Any:
        """See Transport."""
        return self._inner.emit(_without(event, self._secrets))

    def close(self, timeout: float = -1) -> bool:
        """See Transport."""
        return self._inner.close(timeout)


def _without(value: Any, secrets: Secrets) -> Any:
    """The value with secrets hidden in every text; objects of the client's are changed in place."""
    if isinstance(value, str):
        return secrets.hide(value)
    if isinstance(value, list):
        return [_without(item, secrets) for item in value]
    if isinstance(value, dict):
        return {_without(key, secrets): _without(item, secrets) for key, item in value.items()}
    if attr.has(type(value)):
        for field in attr.fields(type(value)):
            # Not by assignment: the client's checks want what is hidden to be a date or the like.
            object.__setattr__(value, field.name, _without(getattr(value, field.name), secrets))
    return value
