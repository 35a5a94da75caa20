"""The jobs of the histories: files with rows of every kind, steps that know them, and what must come of each row."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

SHAPES = 48
A_STEP = 10_000
"""What a step after the first adds to what it reads."""
_REVISION, _FILE = 100, 10_000
_TAKEN, _REMAINDERS = "x % 3 > 0", frozenset({1, 2})
OnRemoved = Literal["error", "keep", "drop"]


@dataclass(frozen=True)
class File:
    """A file of the input. Each of its rows is one number, that no other file or revision has."""

    number: int
    revision: int
    rows: int

    @property
    def path(self) -> str:
        """Its name."""
        return f"/input-{self.number}.parquet" if self.number else "/input.parquet"

    @property
    def first(self) -> int:
        """The number that its first row is."""
        return self.number * _FILE + self.revision * _REVISION

    @property
    def values(self) -> range:
        """All of its rows."""
        return range(self.first, self.first + self.rows)


@dataclass(frozen=True)
class SimulatedStep:
    """A step of a job."""

    name: str
    reads: str
    writes: str
    when: str | None = None
    remainders: frozenset[int] = frozenset({0, 1, 2})
    """Of the rows that it takes, when they are divided by 3."""


_FIRST = SimulatedStep("first", "x", "a")
PIPELINES: tuple[tuple[SimulatedStep, ...], ...] = (
    (SimulatedStep("model", "x", "y"),),
    (_FIRST, SimulatedStep("second", "a", "y")),
    (_FIRST, SimulatedStep("second", "a", "y", _TAKEN, _REMAINDERS)),
    (_FIRST, SimulatedStep("second", "a", "b"), SimulatedStep("third", "b", "y")),
    (
        _FIRST,
        SimulatedStep("second", "a", "y", _TAKEN, _REMAINDERS),
        SimulatedStep("third", "a", "y", "otherwise", frozenset({0})),
    ),
)


@dataclass(frozen=True)
class Special:
    """Rows that aren't predicted like others."""

    poison: frozenset[int]
    invalid: frozenset[int]
    filtered: frozenset[int]

    def __or__(self, other: Special) -> Special:
        return Special(self.poison | other.poison, self.invalid | other.invalid, self.filtered | other.filtered)


@dataclass(frozen=True)
class Shape:
    """A job: which files with how many rows, how they are cut, through which steps they go, and which of them are special."""

    number: int
    version: int
    """Of the models: other ones are another job."""
    repair: int
    """How far the models were mended since: 1 predicts every other row that is poison to them, 2 all. A retry may use them."""
    shard: int
    window: int
    interval: float
    """Seconds between checkpoints."""
    pace: float
    """Seconds of a batch."""
    threshold: int
    files: tuple[File, ...]
    pipeline: int = 0
    """Which one of the pipelines."""
    on_removed: OnRemoved | None = None
    """What becomes of rows of files that are gone; None for a job that isn't extended."""
    first: Special = field(default=Special(frozenset(), frozenset(), frozenset()), compare=False)
    """Of the file and the step that a job begins with."""

    @property
    def rows(self) -> int:
        """All rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def steps(self) -> tuple[SimulatedStep, ...]:
        """In running order."""
        return PIPELINES[self.pipeline]

    @property
    def columns(self) -> tuple[str, ...]:
        """That the steps compute, each once."""
        return tuple(dict.fromkeys(step.writes for step in self.steps))

    def over(self, files: tuple[File, ...]) -> Shape:
        """The same job over other files."""
        return replace(self, files=files)

    def special(self, step: int) -> Special:
        """Rows that a step can't predict, and, for the first one, that are filtered."""
        return _special(self, step)

    def raising(self, step: int) -> frozenset[int]:
        """Rows that the model of a step raises on."""
        poison = self.special(step).poison
        return frozenset(row for row in poison if not self.repair or (self.repair == 1 and row % 2))

    @property
    def filtered(self) -> frozenset[int]:
        """Rows that the job doesn't ask for."""
        return self.special(0).filtered

    @property
    def calls(self) -> int:
        """Rows that the models of all steps are called with where nothing is done twice."""
        asked = [row for file in self.files for row in file.values if row not in self.filtered]
        return sum(
            row % 3 in step.remainders and not self._died_before(row, n)
            for row in asked
            for n, step in enumerate(self.steps)
        )

    def _died_before(self, row: int, step: int) -> bool:
        return self.dead_by(row) in {s.name for s in self.steps[:step]}

    @property
    def isolates(self) -> bool:
        """Whether a model raises on a row, so that others of its batch are seen again."""
        return any(self.raising(n) - self.filtered for n in range(len(self.steps)))

    def dead_by(self, row: int) -> str | None:
        """The step that can't predict a row; None where all that take it can."""
        return _deaths(self).get(row)

    def given(self, row: int) -> dict[str, float | None]:
        """What the steps say of a row when they aren't noisy; None in the columns of those that don't take it."""
        values: dict[str, float | None] = dict.fromkeys(self.columns)
        for n, step in enumerate(self.steps):
            if row % 3 in step.remainders:
                values[step.writes] = self.answer(n, row, values.get(step.reads) or 0.0)
        return values

    def answer(self, step: int, row: int, read: float) -> float:
        """What a step says of a row, given what it reads of the step before."""
        return read + A_STEP * step if step else row * 0.5 + 1000 * self.version


@functools.cache
def shape(number: int, version: int, repair: int = 0) -> Shape:
    """One of the jobs, as it begins: of one step, over one file."""
    chance = Random(f"shape {number}")
    long = chance.random() < 0.3
    rows = chance.randint(16, 36) if long else chance.randint(8, 20)
    shard = chance.choice((16, 24)) if long else chance.choice((4, 6, 8, 9))
    special = _draw(range(rows), chance)
    return Shape(
        number,
        version,
        repair,
        shard,
        chance.choice((2, 3, 4)),
        chance.choice((1.0, 2.0, 4.0)),
        chance.choice((0.4, 1.0)),
        -1 if chance.random() < 0.8 else 0,
        (File(0, 0, rows),),
        first=special,
    )


def drawn_further(job: Shape, chance: Random) -> Shape:
    """The same job, perhaps of several steps, perhaps over several files that will change."""
    pipeline = chance.randrange(1, len(PIPELINES)) if chance.random() < 0.45 else 0
    on_removed: OnRemoved | None = None
    files = job.files
    if chance.random() < 0.4:
        on_removed = chance.choice(("error", "keep", "drop"))
        files = (*files, *(File(n + 1, 0, chance.randint(2, 7)) for n in range(chance.randint(0, 2))))
    return replace(job, pipeline=pipeline, on_removed=on_removed, files=files)


def _draw(rows: range, chance: Random) -> Special:
    kinds = [
        frozenset(n for n in rows if chance.random() < share) if chance.random() < 0.5 else frozenset[int]()
        for share in (0.08, 0.06, 0.15)
    ]
    return Special(*kinds)


@functools.cache
def _special(job: Shape, step: int) -> Special:
    nothing = Special(frozenset(), frozenset(), frozenset())
    found = nothing
    for file in job.files:
        if step == file.number == file.revision == 0:
            found |= job.first
        else:
            drawn = _draw(file.values, Random(f"shape {job.number} {file.first} {step}"))
            found |= drawn if step == 0 else replace(drawn, filtered=nothing.filtered)
    return found


@functools.cache
def _deaths(job: Shape) -> dict[int, str]:
    found: dict[int, str] = {}
    for n, step in enumerate(job.steps):
        for row in (job.raising(n) | job.special(n).invalid) - job.filtered:
            if row % 3 in step.remainders:
                found.setdefault(row, step.name)
    return found
