"""A run in the cell of a notebook: figures that are updated in place, and what it came to at the end.

Each update has an HTML and a plain form, so that it is read without a front end too. IPython isn't imported: who runs in a kernel has it.
"""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

from batchinfer.api.words import outcome, rest
from batchinfer.plan.table import Table
from batchinfer.report.results import ended_by
from batchinfer.report.tally import Tally
from batchinfer.report.words import ENDED, note, stopping
from batchinfer.run.events import Event, GivenUp, Retried, Settled, Started, Ticked
from batchinfer.run.stop import StopRequest

log = logging.getLogger(__name__)

EVERY_SECONDS = 0.5
_FAILURES = 3
"""Of those that a run meets, so many are shown, the newest ones."""
_TRACK = "position:relative;height:6px;width:min(100%,32em);margin:5px 0;border-radius:3px;overflow:hidden"
_LAYER = "position:absolute;top:0;bottom:0;left:0;background:currentColor"

Publish = Callable[[dict[str, str], bool], None]
"""Shows what is given by media type; whether it takes the place of what was shown before."""


def publisher() -> Publish | None:
    """Shows one output of the notebook whose kernel this process is; None where it is none."""
    find = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell: Any = find() if find is not None else None
    if getattr(shell, "kernel", None) is None:
        return None
    name = f"batchinfer-{secrets.token_hex(8)}"

    def publish(bundle: dict[str, str], update: bool) -> None:
        shell.display_pub.publish(data=bundle, metadata={}, transient={"display_id": name}, update=update)

    return publish


class Widget:
    """A listener and a context; what it shows stays when the run has ended.

    Args:
        name: of the job.
        tally: the figures; must be told of each event first.
        stop: whether the run was asked to end.
        publish: see `publisher`.
        clock: in seconds.

    """

    def __init__(
        self,
        name: str,
        tally: Tally,
        stop: StopRequest,
        publish: Publish,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._tally, self._stop, self._publish, self._clock = name, tally, stop, publish, clock
        self._lock = threading.Lock()
        self._shown = self._said_stopping = self._broken = False
        self._next = 0.0
        self._note = ""
        self._failures: list[str] = []
        self._error: BaseException | None = None

    def __enter__(self) -> Widget:
        # Model libraries ask for ipywidgets by a warning, for bars that they don't draw here.
        warnings.filterwarnings("ignore", message="IProgress not found")
        self.refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._error = error
        self.refresh()

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        text = note(event)
        if text is not None and isinstance(event, Retried | GivenUp):
            self._failures = [*self._failures, text][-_FAILURES:]
        elif text is not None:
            self._note = text
        stops = bool(self._stop) and not self._said_stopping
        if isinstance(event, Started | Settled) or stops or (isinstance(event, Ticked) and self._clock() >= self._next):
            self._said_stopping = bool(self._stop)
            self.refresh()

    def refresh(self) -> None:
        """Show it as it is now. Called again in another cell, that one's record of the output is brought up to date, too."""
        with self._lock:
            if self._broken:
                return
            self._next = self._clock() + EVERY_SECONDS
            try:
                self._publish(self._bundle(), self._shown)
            except Exception:
                self._broken = True
                log.warning("the progress of %s can't be shown any more", self._name, exc_info=True)
            self._shown = True

    def _bundle(self) -> dict[str, str]:
        tally, result = self._tally, self._tally.result
        if self._error is not None:
            state, _ = ended_by(self._error)
            rows = [("error", str(self._error) or type(self._error).__name__)]
            rows += [("next", rest(state))] if tally.started and rest(state) else []
            told = Table(self._name, ENDED[state], tuple(rows))
        elif result is not None:
            told = outcome(self._name, result.to_json(), result.rows, result.output)
        else:
            told = Table(self._name, tally.line if tally.started else "planning", tuple(self._notes()))
        bar = _bar(tally.rows / tally.planned if tally.planned else 0.0) if result is None and tally.started else ""
        return {"text/plain": told.text(), "text/html": told.html(bar)}

    def _notes(self) -> list[tuple[str, str]]:
        notes = [("now", self._note)] if self._note else []
        notes += [("failure", text) for text in self._failures]
        return [*notes, *([("stopping", stopping(self._stop))] if self._stop else [])]


def _bar(share: float) -> str:
    """Drawn in the colour of the text, which every theme shows."""
    layers = "".join(
        f'<div style="{_LAYER};width:{100 * width:.1f}%;opacity:{opacity}"></div>'
        for width, opacity in ((1.0, 0.15), (share, 0.65))
    )
    return f'<div style="{_TRACK}">{layers}</div>'
