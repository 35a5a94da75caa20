"""The report of a run: the facts in `run_results.json`, and `report.html` beside it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from batchinfer.errors import BatchinferError, OutputError
from batchinfer.ledger import records
from batchinfer.report.facts import before, with_advice, with_facts
from batchinfer.report.html.page import page
from batchinfer.report.profile import Profile
from batchinfer.report.record import Predictions, RunRecord
from batchinfer.report.results import recorded
from batchinfer.run.events import Listener, Started
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store

_LOG = logging.getLogger(__name__)
_AT_LEISURE = ("SUCCEEDED", "PARTIAL")
"""States of a run that came to its end. One that is asked to end has seconds for it, and of an output that isn't whole each part would have
to be read: its report has what the run knows itself, and `batchinfer report` adds the rest.
"""


def reported(store: Store, work: Callable[[Listener], object], listener: Listener | None = None) -> None:
    """Do the work of a runner as `recorded` does, and report on it, however it ends.

    Where there was nothing to do, the report of the run that did it stays.
    """
    recorded(store, work, listener, Reporting(store))


class Reporting:
    """Facts for the record, and the page beside it. What was predicted is never lost by a report that can't be made."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begun(self, started: Started) -> Mapping[str, Any]:
        """See Further."""
        shown = Predictions()
        with contextlib.suppress(BatchinferError, ValueError):  # a record that is damaged, or of another version
            shown = before(self._store, started.job)
        return {"predictions": shown.model_dump(mode="json")}

    def ended(self, started: Started, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """See Further."""
        facts: Mapping[str, Any] = {}
        try:
            whole = RunRecord.model_validate(record)
            if whole.state in _AT_LEISURE:
                whole = with_facts(self._store, started.job, whole)
            else:
                whole = with_advice(whole)
            facts = whole.model_dump(mode="json", include={"dead_letters", "predictions", "advice"})
            if started.plan.spec.report.html:
                self._store.put(started.job.report, page(whole).encode("utf-8", "replace"))
        except BatchinferError as error:
            _LOG.warning("no report of this run: %s", error)
        except Exception:  # noqa: BLE001 - a page that can't be drawn must not take the run's result with it
            _LOG.exception(
                "no report of this run; what was predicted stands all the same, and this is a bug: please report it"
            )
        return facts


def report(store: Store, job: JobPaths, reference: tuple[str, Profile] | None = None) -> str:
    """The page of what the output says now.

    Args:
        store: the output.
        job: its job.
        reference: predictions to show these beside, and what they are of; None: those of the run before.

    Raises:
        OutputError: the job's record or a part is gone or damaged.
        StorageError, AccessError: the output can't be read.

    """
    standing = records.find(store, job.run_results)
    if standing is None:
        raise OutputError(f"{store.root}: the job has not been run so far that there is anything to report")
    record = with_facts(store, job, RunRecord.model_validate(standing))
    if reference is not None:
        name, profile = reference
        shown = Predictions(now=record.predictions.now, before=profile.to_json(), before_name=name)
        record = record.model_copy(update={"predictions": shown})
    return page(record)
