"""The history of a seed, from its draws to what can be said of it as a whole."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import random
import secrets
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from unittest import mock

from batchinfer.testing.simulator.history import History
from batchinfer.testing.simulator.model import BATCH
from batchinfer.testing.simulator.operator import Operator
from batchinfer.testing.simulator.shape import SHAPES, Shape, drawn_further, shape
from batchinfer.testing.simulator.weather import Weather
from batchinfer.testing.simulator.world import World


def simulate(seed: int, *, plain: bool = False) -> History:
    """The history of a seed; a plain one is of a job of one step over an input that stays as it is."""
    chance = Random(f"history {seed}")
    weather, job = Weather.of(chance), shape(chance.randrange(SHAPES), 0)
    if not plain:
        job = drawn_further(job, Random(f"further {seed}"))
    world = World(seed, weather, job, chance)
    history = _run(world, job, chance)
    if not history.violations:
        _check(world)
    return history


@functools.cache
def undisturbed(job: Shape) -> dict[int, bytes]:
    """The parts of a run that nothing happens to."""
    chance = Random("undisturbed")
    job = replace(job, on_removed=None)
    return _run(World(0, Weather(starts=1), job, chance), job, chance).parts


def _run(world: World, job: Shape, chance: Random) -> History:
    with _tokens(f"history {world.history.seed}"):
        return world.run(Operator(world, job, chance).operate)


@contextlib.contextmanager
def _tokens(seed: str) -> Iterator[None]:
    """Nonces, names and jitter of the code under simulation come from the seed too."""
    state, tokens = random.getstate(), Random(f"{seed} tokens")
    random.seed(seed)
    log = logging.getLogger("batchinfer")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with mock.patch.object(secrets, "token_hex", lambda n=32: tokens.randbytes(n).hex()):
            yield
    finally:
        log.setLevel(level)
        random.setstate(state)


def _check(world: World) -> None:
    """What can be said of a whole history."""
    history, weather = world.history, world.weather
    job = history.shape
    right = {} if weather.noisy else undisturbed(job)
    if not weather.noisy and history.parts != {n: right[n] for n in (history.parts if job.on_removed else right)}:
        world.failed("the bytes of the parts differ from those of an undisturbed run")
    if job.on_removed or not weather.only_crashes or job.isolates:  # isolating rows takes calls of its own
        return
    by_process = [steps.total() for steps in world.unsaved.values()]
    unsaved, redone = sum(by_process), history.seen - job.calls
    if redone > unsaved:
        world.failed(f"{redone} rows were done again, and only {unsaved} were not saved when workers died")
    # The batches of an interval, the one with which it begins, and one that ends just before it is over.
    most = BATCH * (math.ceil(job.interval / job.pace) + 2)
    if max(by_process, default=0) > most:
        world.failed(f"{max(by_process)} rows were not saved when a worker died, {most} may be")
