"""A deterministic simulator: the real ledger, runner, generation, stages and shards over a bucket, machines and time of its own.

One seed is one history, on whatever machine. `python -m batchinfer.testing.simulator --seed 17` tells it, operation by operation.
"""

from batchinfer.testing.simulator.history import History
from batchinfer.testing.simulator.seed import simulate

__all__ = ["History", "simulate"]
