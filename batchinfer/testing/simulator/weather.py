"""What can go wrong in a history: drawn from its seed, and then drawn for each request."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from random import Random

from batchinfer.storage import paths
from batchinfer.testing.simulator.bucket import Bucket
from batchinfer.testing.simulator.scheduler import Process, Scheduler

DISASTERS = 12
"""Faults of a history at most; then it is calm, so that every history can end."""
AMID_A_SHARD = 5.0
"""How much more often than elsewhere a process dies or stops while it works on a shard, where there is most to lose."""


@dataclass(frozen=True)
class Weather:
    """How often each thing goes wrong in a history."""

    crash: float = 0.0
    """A process dies before a request."""
    pause: float = 0.0
    """A process stops before a request, as by SIGSTOP, and goes on later: a zombie."""
    stall: float = 0.0
    """A request takes very long, while the process's other threads go on."""
    refused: float = 0.0
    """A request fails and had no effect."""
    lost: float = 0.0
    """A request is served and its answer is lost."""
    late: float = 0.0
    """A request is given up by its client and takes effect later."""
    stale: float = 0.0
    """A listing shows what was some seconds ago."""
    corrupt: float = 0.0
    """A chunk is damaged, or swapped with another, before it is read."""
    stopped: float = 0.0
    """A runner is asked to stop."""
    runners: int = 1
    """That may live at the same time."""
    starts: int = 3
    """How often a runner is started before all is calm."""
    restarts: float = 0.0
    """How often with `--restart` or another model."""
    retries: float = 0.0
    """How often a start is a retry of the dead rows, with a model that may have been mended."""
    on_ray: bool = False
    """Workers are processes of their own, which may outlive their driver."""
    workers: int = 1
    blind: bool = False
    """Every runner takes every other one for dead, so that nothing but the protocol keeps them apart."""
    duel: bool = False
    """Runners start within seconds of each other."""
    gives_up: bool = False
    """The store raises at the first fault, as it does after minutes of them."""
    noisy: bool = False
    """The model's outputs differ from call to call."""

    @classmethod
    def of(cls, chance: Random) -> Weather:
        """Draw one."""

        def rate(most: float) -> float:
            return most * chance.random() if chance.random() < 0.45 else 0.0

        kind = chance.random()
        on_ray = chance.random() < 0.4
        common = {
            "starts": chance.randint(1, 5),
            "on_ray": on_ray,
            "workers": chance.randint(1, 2) if on_ray else 1,
            "noisy": chance.random() < 0.4,
        }
        if kind < 0.35:  # crashes alone, one runner after the other: the work done again can be bounded exactly
            return cls(crash=0.02 * chance.random(), stopped=rate(0.5), **common)  # type: ignore[arg-type]
        if kind < 0.55:  # runners side by side over the same shards
            duel = {**common, "noisy": chance.random() < 0.8, "starts": 3, "runners": 3, "blind": True, "duel": True}
            restarts = 0.3 if chance.random() < 0.3 else 0.0
            return cls(pause=0.02 * chance.random(), stall=rate(0.05), restarts=restarts, **duel)  # type: ignore[arg-type]
        return cls(
            crash=rate(0.04),
            pause=rate(0.03),
            stall=rate(0.03),
            refused=rate(0.05),
            lost=rate(0.2),
            late=rate(0.05),
            stale=rate(0.4),
            corrupt=0.95 if chance.random() < 0.95 else 0.0,
            stopped=rate(0.5),
            runners=chance.randint(1, 3),
            restarts=0.35 if chance.random() < 0.4 else 0.0,
            retries=0.4 if chance.random() < 0.5 else 0.0,
            blind=chance.random() < 0.3,
            gives_up=chance.random() < 0.2,
            **common,  # type: ignore[arg-type]
        )

    @property
    def only_crashes(self) -> bool:
        """Whether nothing but deaths and requests to stop can make work be done again."""
        return self.runners == 1 and not any(
            getattr(self, name)
            for name in (
                "pause",
                "stall",
                "refused",
                "lost",
                "late",
                "stale",
                "corrupt",
                "restarts",
                "retries",
                "blind",
            )
        )

    def __str__(self) -> str:
        told = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in told.items()) or "calm"


class Fate:
    """Draws what happens to each request of a history."""

    def __init__(
        self,
        weather: Weather,
        chance: Random,
        scheduler: Scheduler,
        bucket: Bucket,
        note: Callable[[str, str], None],
    ) -> None:
        self.weather, self._chance, self._scheduler = weather, chance, scheduler
        self._bucket, self._note = bucket, note
        self.calm = False
        self.counts: Counter[str] = Counter()
        """Faults that happened, by kind."""
        self.network = Process("network", "network", 0, 0.0)

    @property
    def now(self) -> float:
        """Virtual time in seconds."""
        return self._scheduler.now

    def strikes(self, kind: str, weight: float = 1.0) -> bool:
        """Whether a fault of this kind happens now; uses up one of those that the history may have."""
        rate: float = weight * getattr(self.weather, kind)
        if not rate or self.calm or self.counts.total() >= DISASTERS or self._chance.random() >= rate:
            return False
        self.counts[kind] += 1
        return True

    def step(self, seconds: float, weight: float = AMID_A_SHARD) -> None:
        """Let time pass, in which the process of the caller may die or be stopped: the more likely the greater the weight."""
        process = self._scheduler.me().process
        if self.strikes("crash", weight):
            self._note(process.name, "is killed")
            self._scheduler.kill(process)
        if self.strikes("pause", weight):
            # A worker that is stopped for good is a hang, and its driver's to end; a driver may wake up when all is over.
            pause = self._chance.choice(
                (3.0, 20.0, 45.0, 120.0, 400.0) if process.hired else (3.0, 20.0, 45.0, 120.0, math.inf)
            )
            self._note(process.name, f"is stopped for {pause:g} s")
            process.paused_until = self.now + pause
        self._scheduler.pause(seconds)

    def request(self, who: str, verb: str, path: str) -> None:
        """See Faults.request."""
        latency = self._chance.uniform(0.005, 0.25)
        if self.strikes("stall"):
            latency = self._chance.uniform(5.0, 60.0)
            self._note(who, f"{verb} {path}: takes {latency:.0f} s")
        amid = path.startswith((f"{paths.DATA}/part", paths.DEAD_LETTERS)) or "/wip/" in path
        self.step(latency, AMID_A_SHARD if amid else 1.0)
        self._note(who, f"{verb} {path}")
        if verb == "read" and "/wip/" in path and self.strikes("corrupt"):
            self._note("storage", self._bucket.damage(path, self._chance))
        if self.strikes("refused"):
            self._note(who, f"{verb} {path}: refused by the service")
            raise OSError(f"{path}: 503 from the service")

    def answer(self, who: str, verb: str, path: str) -> OSError | None:
        """See Faults.answer."""
        if not self.strikes("lost"):
            return None
        retried = verb == "create" and self._chance.random() < 0.6
        self._note(who, f"{verb} {path}: the answer is lost{', and a retry is told that it exists' if retried else ''}")
        return FileExistsError(path) if retried else ConnectionResetError(f"{path}: connection lost")

    def late(self, who: str, verb: str, path: str, effect: Callable[[], None]) -> bool:
        """See Faults.late."""
        if not self.strikes("late"):
            return False
        after = self._chance.choice((0.3, 2.0, 15.0))

        def happen() -> None:
            self._note(who, f"{verb} {path}: takes effect now, {after:g} s late")
            effect()

        self._note(who, f"{verb} {path}: no answer")
        self._scheduler.spawn(self.network, "network", happen, after)
        return True

    def listed_at(self, who: str, prefix: str) -> Callable[[str], float]:
        """See Faults.listed_at."""
        if not self.strikes("stale"):
            return lambda _name: self.now
        lag = self._chance.choice((1.0, 5.0, 30.0))
        self._note(who, f"list {prefix or paths.STATE}: stale by up to {lag:g} s")
        ages: dict[str, float] = {}
        chance, now = Random(self._chance.random()), self.now
        return lambda name: ages.setdefault(name, now - lag * chance.random())
