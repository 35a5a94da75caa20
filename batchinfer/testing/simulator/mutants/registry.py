"""The mutants by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

Mutant = Callable[[], AbstractContextManager[object]]
MUTANTS: dict[str, Mutant] = {}


def mutant(make: Callable[[], Iterator[None]]) -> Mutant:
    """Enter a mutant under its name."""
    made = contextlib.contextmanager(make)
    MUTANTS[make.__name__.replace("_", "-")] = made
    return made
