"""Wrong versions of the real code. Each breaks one rule of the protocol; a simulator that doesn't catch one is no good."""

from batchinfer.testing.simulator.mutants import (  # noqa: F401 - they enter themselves
    checkpoints,
    creates,
    decisions,
    endings,
    extensions,
    steps,
)
from batchinfer.testing.simulator.mutants.registry import MUTANTS

__all__ = ["MUTANTS"]
