"""Which display a run in this process gets."""

from __future__ import annotations

import sys
from typing import Literal, Protocol, get_args

from batchinfer.api.notebook import Widget, publisher
from batchinfer.report import lines
from batchinfer.report.lines import Lines
from batchinfer.report.tally import Tally
from batchinfer.run.stop import StopRequest

Progress = Literal["auto", "bar", "plain", "none"]
"""`auto`: a bar in a notebook, else nothing. `bar`: lines where there is no notebook. `plain`: lines, on stderr outside of a notebook."""


class Display(lines.Display, Protocol):
    """One that can be shown again."""

    def refresh(self) -> None:
        """Show it as it is now."""


def display(mode: Progress, name: str, tally: Tally, stop: StopRequest) -> Display:
    """The display that is asked for, of a job of this name. Raises ValueError for another word."""
    if mode not in get_args(Progress):
        raise ValueError(f"progress={mode!r}: write one of {', '.join(map(repr, get_args(Progress)))}")
    publish = None if mode == "none" else publisher()
    if publish is not None and mode != "plain":
        return Widget(name, tally, stop, publish)
    stream = sys.stderr if publish is None else sys.stdout

    def say(text: str) -> None:
        if mode in ("bar", "plain"):
            print(f"{name}: {text}", file=stream, flush=True)

    return Lines(tally, stop, say)
