"""Ctrl-C in a program or notebook that handles no signals itself: a request to stop, not an exception anywhere in the loop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from batchinfer.run.stop import StopRequest


@contextlib.contextmanager
def heard(stop: StopRequest) -> Iterator[None]:
    """While the block runs, the first Ctrl-C asks `stop`, and a second raises KeyboardInterrupt as ever.

    Only where Python's own handler would be called: whoever has set another one, as the terminal door does, knows what to do.
    """
    own = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not own:
        yield
        return

    def ask(number: int, _frame: object) -> None:
        signal.signal(number, signal.default_int_handler)
        stop.ask("interrupted", cancelled=True)

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
