"""A job that is run again with a prediction cache takes over what was settled for it, so that it asks no model anything."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from batchinfer.engines import device
from batchinfer.errors import AccessError, OutputError, StorageError
from batchinfer.ledger import records
from batchinfer.measure.settings import Settings
from batchinfer.plan.fingerprint import digest_of
from batchinfer.storage.store import open_store
from batchinfer.worker.context import Context

log = logging.getLogger(__name__)

FORM = 1
"""Of what is kept, and of how it was settled."""
_FAULTS = (StorageError, AccessError, OutputError)


class RepeatedSettings:
    """The settings of the same job on the same kind of machine, kept beside the predictions.

    Args:
        context: the job; one without a prediction cache keeps nothing.
        devices: of its models.

    """

    def __init__(self, context: Context, devices: Sequence[str]) -> None:
        asked = context.spec.cache
        self._store = None
        if asked.path is None or not context.fingerprint or context.outputs is not None:
            return
        self._store = open_store(asked.path, context.spec.storage)
        machine = [device.name_of(name) for name in devices]
        threads = [context.share(step.name).threads for step in context.spec.models]
        key = digest_of([FORM, context.fingerprint, machine, threads, context.workers, asked.deduplicate])
        self._path = f"settings/{key[:32]}.json"

    def find(self) -> Settings | None:
        """What was settled; None where nothing is kept, or it can't be read."""
        if self._store is None:
            return None
        with contextlib.suppress(FileNotFoundError, KeyError, *_FAULTS):  # another version may have kept other keys
            return Settings.from_json(records.from_bytes(self._store.read(self._path), self._path)["settings"])
        return None

    def keep(self, settings: Settings) -> None:
        """Keep what was settled; where that fails, the next run settles it again."""
        if self._store is None:
            return
        try:
            self._store.put(self._path, records.to_bytes({"settings": settings.to_json()}))
        except _FAULTS as error:
            log.warning("what was measured isn't kept beside the predictions: %s", error)
