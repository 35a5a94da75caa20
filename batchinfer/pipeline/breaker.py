"""The circuit breaker: a model that fails on every row is broken, and its rows are not bad."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from batchinfer.errors import CircuitBreakerError

ROWS = 100
"""So many rows must have been attempted."""


class CircuitBreaker:
    """Opens when at least `ROWS` rows were attempted and every one of them failed with one error type."""

    def __init__(self, *, enabled: bool) -> None:
        self._watching = enabled
        self._failed: Counter[str] = Counter()

    def succeeded(self) -> None:
        """A row succeeded: from now on a row that fails is a bad row."""
        self._watching = False

    def failed(self, error_types: Iterable[str], example: str) -> None:
        """Rows failed, each alone, with these error types. Raises CircuitBreakerError where that makes all rows so far."""
        if not self._watching:
            return
        self._failed.update(error_types)
        if len(self._failed) == 1 and self._failed.total() >= ROWS:
            (kind,) = self._failed
            raise CircuitBreakerError(
                f"all of the first {self._failed.total()} rows failed with {kind} ({example}): this looks like a broken model or a wrong "
                "input column, not like bad rows. Nothing was counted as dead. Correct it, or set errors.circuit_breaker to false to go on"
            )
