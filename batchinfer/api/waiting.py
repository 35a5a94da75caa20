"""Waiting for a run in another process, by what it leaves on the output."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchinfer.ledger import epochs
from batchinfer.ledger.epochs import Standing
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import Store

_LOOK_SECONDS = 1.0
_RESULT_SECONDS = 15.0
"""How long a runner that has ended in order may take to write what it came to."""


def wait(
    store: Store,
    job: JobPaths,
    runner: Callable[[], Standing | None],
    exit_code: Callable[[], int | None],
    timeout: float | None,
) -> int | None:
    """See `Run.wait`."""
    end = None if timeout is None else time.monotonic() + timeout
    while (standing := runner()) is not None and standing.state not in ("closed", "dead"):
        left = epochs.STALE_SECONDS if end is None else min(epochs.STALE_SECONDS, end - time.monotonic())
        if left <= 0:
            return None
        if standing.state == "alive":
            time.sleep(min(_LOOK_SECONDS, left))
        elif not epochs.is_alive(store, job, standing, seconds=left):
            standing = runner()
            break
    if standing is None or standing.state != "closed":
        return None
    written = time.monotonic() + _RESULT_SECONDS
    while (code := exit_code()) is None and time.monotonic() < written:
        time.sleep(_LOOK_SECONDS / 4)
    return code
