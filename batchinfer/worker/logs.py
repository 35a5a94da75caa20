"""What a worker's process logs and warns of, on its standard error, without secrets."""

from __future__ import annotations

import logging

from batchinfer.job.secrets import HidingFormatter, Secrets


def begin(secrets: Secrets) -> None:
    """Have this process, which is the worker's alone, log without the secrets from here on."""
    handler = logging.StreamHandler()
    handler.setFormatter(HidingFormatter(secrets))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
