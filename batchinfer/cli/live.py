"""The live display of a run on a terminal: one bar for the job, one line for each worker."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from batchinfer.report.crew import Crew
from batchinfer.report.tally import Tally
from batchinfer.report.words import note, stopping
from batchinfer.run.events import Event, GivenUp, Retried, Settled, Ticked
from batchinfer.run.stop import StopRequest
from batchinfer.worker.context import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_WORKERS = 8
LONGEST_NAME = 24


class LiveDisplay:
    """Drawn on stderr by rich, and gone when the run ends; notes stay above it.

    Args:
        tally: the figures; must be told of each event first.
        stop: whether the run was asked to end.

    """

    def __init__(self, tally: Tally, stop: StopRequest) -> None:
        from rich.console import Console
        from rich.live import Live

        self._tally, self._stop, self._crew = tally, stop, Crew()
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = Live(
            console=self._console, transient=True, auto_refresh=False, redirect_stdout=True, redirect_stderr=True
        )
        self._on = False

    def __enter__(self) -> LiveDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        self._crew(event)
        text = note(event)
        if text is not None:
            self._console.print(
                text, style="yellow" if isinstance(event, Retried | GivenUp) else "dim", soft_wrap=False
            )
        if isinstance(event, Settled) and not self._on:
            self._on = True
            self._live.start()
        if self._on and isinstance(event, Settled | Ticked):
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        tally = self._tally
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        name = tally.name if len(tally.name) <= LONGEST_NAME else tally.name[: LONGEST_NAME - 1] + "…"
        bar.add_row(
            Text(name, "bold"),
            ProgressBar(max(1, tally.planned), tally.rows if tally.planned else 1),
            Text(tally.share, "bold"),
        )
        figures = Text(
            " · ".join([f"{tally.rows:,} of {tally.planned:,} rows", *tally.figures]), overflow="ellipsis", no_wrap=True
        )
        lines = [
            Text(_of(p, self._crew.busy(p.worker)), "dim", overflow="ellipsis", no_wrap=True)
            for p in tally.workers[:MOST_WORKERS]
        ]
        if len(tally.workers) > MOST_WORKERS:
            lines.append(Text(f"  and {len(tally.workers) - MOST_WORKERS:,} more workers", "dim"))
        if self._stop:
            lines.append(Text(stopping(self._stop), "yellow"))
        return Group(bar, figures, *lines)


def _of(worker: Progress, busy: float | None) -> str:
    """A line of 80 columns at most for names that aren't long."""
    shard = f"shard {worker.shard:,}" if worker.shard is not None else worker.note
    step = worker.step if worker.shard is not None else ""
    device = "" if busy is None else f"{100 * busy:3.0f} % busy, {100 * (1 - busy):3.0f} % waiting"
    return f"  worker {worker.worker:<3} {shard:<12.12} {step:<12.12} {device:<23} {worker.rows:>10,} rows"
