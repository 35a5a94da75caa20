"""Who is told of a job's runs, as its job file and the environment have it. What nobody asked for isn't imported."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from batchinfer.errors import MissingExtraError, RefusedError
from batchinfer.job.report import MlflowRun, OpenLineage
from batchinfer.job.secrets import Secrets
from batchinfer.job.spec import JobSpec
from batchinfer.run.events import Event, Listener
from batchinfer.storage.store import Store

log = logging.getLogger(__name__)

_FILES = ("openlineage.yml", "~/.openlineage/openlineage.yml")
"""Where OpenLineage's client looks for its configuration, beside OPENLINEAGE_CONFIG."""


class Reporter(Protocol):
    """A listener that tells others of the run, and of what ends it."""

    def __call__(self, event: Event) -> None:
        """Take in an event of the run. Must not raise, and not wait for others."""

    def failed(self, error: BaseException) -> None:
        """An exception ended the run, perhaps before its first event."""

    def close(self) -> None:
        """The run is over, and its files are written: the last moment to tell of it, in which to wait is allowed."""


def telling(spec: JobSpec, store: Store, work: Callable[[Listener], object], listener: Listener | None = None) -> None:
    """Do the work of a runner and of its record, and tell `listener` of its events, and all who are to be told of the job's runs.

    Raises what `of` raises, before anything is done, and what the work raises.
    """
    others = of(spec, store)

    def told(event: Event) -> None:
        for other in others:
            other(event)
        if listener is not None:
            listener(event)

    try:
        work(told)
    except BaseException as error:
        for other in others:
            other.failed(error)
        raise
    finally:
        for other in others:
            other.close()


def check(spec: JobSpec) -> None:
    """Raise MissingExtraError where the job file asks for what isn't installed."""
    for asked, package, module, extra, key in (
        (
            isinstance(spec.report.openlineage, OpenLineage),
            "openlineage-python",
            "openlineage",
            "openlineage",
            "openlineage",
        ),
        (isinstance(spec.report.mlflow, MlflowRun), "mlflow-skinny", "mlflow", "mlflow", "mlflow"),
    ):
        if asked and importlib.util.find_spec(module) is None:
            raise MissingExtraError(package, extra, f"report.{key}")


def of(spec: JobSpec, store: Store) -> list[Reporter]:
    """Those who are to be told of one run.

    Args:
        spec: the job.
        store: its output.

    Raises:
        MissingExtraError, RefusedError: the job file asks for what isn't installed, or can't be.

    """
    check(spec)
    secrets = spec.secrets | Secrets.of_environment(os.environ)
    found = [_mlflow(spec, store, secrets), _lineage(spec, store, secrets, os.environ)]
    return [reporter for reporter in found if reporter is not None]


def _lineage(spec: JobSpec, store: Store, secrets: Secrets, environ: Mapping[str, str]) -> Reporter | None:
    asked = spec.report.openlineage
    if asked == "off":
        return None
    if asked == "auto":
        if not is_configured(environ):
            return None
        if importlib.util.find_spec("openlineage") is None:
            log.warning(
                "OpenLineage is configured, but its client isn't installed: no events are sent; "
                "pip install 'batchinfer[openlineage]', or report: {openlineage: off}"
            )
            return None
    # In this thread: two that import packages with circles may see each other's halves.
    from batchinfer.report.lineage.client import open_client
    from batchinfer.report.lineage.listener import Lineage

    try:
        client = open_client(None if asked == "auto" else asked, environ, secrets)
    except RefusedError as error:
        if asked != "auto":
            raise
        log.warning("%s; no events are sent", error)
        return None
    return Lineage(spec, store, client, OpenLineage() if asked == "auto" else asked, secrets, environ)


def is_configured(environ: Mapping[str, str]) -> bool:
    """Whether OpenLineage's variables, or a file where its client looks, may say where events go."""
    if environ.get("OPENLINEAGE_URL") or any(name.startswith("OPENLINEAGE__TRANSPORT") for name in environ):
        return True
    return any(Path(file).expanduser().is_file() for file in (environ.get("OPENLINEAGE_CONFIG", ""), *_FILES) if file)


def _mlflow(spec: JobSpec, store: Store, secrets: Secrets) -> Reporter | None:
    asked = spec.report.mlflow
    if asked == "off":
        return None
    from batchinfer.report.mlflow import MlflowListener

    return MlflowListener(spec, store, asked, secrets)
