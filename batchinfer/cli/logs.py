"""What libraries log and warn of while a verb works, on stderr, without secrets."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchinfer.cli.streams import are_json, json_line

if TYPE_CHECKING:
    from batchinfer.job.secrets import Secrets


@contextlib.contextmanager
def kept(secrets: Secrets, level: str = "warning") -> Iterator[None]:
    """Nothing that is logged, warned of or raised in the block repeats the secrets."""
    from batchinfer.job.secrets import HidingFormatter

    class _JsonFormatter(HidingFormatter):
        """Log lines as JSON objects."""

        def format(self, record: logging.LogRecord) -> str:
            return json_line(record.levelname, record.name, super().format(record).partition(": ")[2])

    handler = _StderrHandler()
    handler.setFormatter(_JsonFormatter(secrets) if are_json() else HidingFormatter(secrets))
    root = logging.getLogger()
    former = root.level
    root.setLevel(level.upper())
    root.addHandler(handler)
    logging.captureWarnings(capture=True)
    try:
        with secrets.kept():
            yield
    finally:
        logging.captureWarnings(capture=False)
        root.removeHandler(handler)
        root.setLevel(former)


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what `sys.stderr` is at that moment: the live display puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)
