"""The operator of a history, who starts runners and looks at what became of them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from batchinfer.run.events import State
from batchinfer.testing.simulator.shape import File, Shape
from batchinfer.testing.simulator.world import How, World

_CHANGES = 0.6
"""How often the input changes between two starts of a job that is extended."""
LAST_STARTS = 8
"""Runners that may be needed to end a job in calm weather: some find another one alive."""


class Operator:
    """Starts runners of a job, sometimes with another model, until the job has ended.

    Args:
        world: where.
        job: as it is at first.
        chance: draws what is started when.

    """

    def __init__(self, world: World, job: Shape, chance: Random) -> None:
        self._world, self._job, self._chance = world, job, chance
        self._numbered = max(file.number for file in job.files)

    def operate(self) -> None:
        """In the weather of the seed, then in calm weather until the job has ended, also once the last sleeper is awake."""
        chance, world, weather = self._chance, self._world, self._world.weather
        for n in range(weather.starts):
            if n and self._job.on_removed is not None and chance.random() < _CHANGES:
                self._change()
            started = world.start(self._draw_start() if n else "run", self._job)
            if chance.random() < weather.stopped:
                world.stop_later(started, chance.uniform(0.5, 15.0))
            gap = chance.uniform(0.0, 2.0 if weather.duel else 40.0) if weather.runners > 1 else 900.0
            world.scheduler.join(started.task, gap)
            while len(world.alive()) >= weather.runners:
                world.scheduler.pause(5.0)
        world.fate.calm = True
        world.note("operator", "calm")
        if self._job.on_removed is not None:
            self._change()
        self._finish()
        world.wake_up()
        for started in world.starts:
            world.scheduler.join(started.task)
        world.scheduler.pause(60.0)  # workers that outlive their driver come to an end
        self._finish()
        world.history.parts, world.history.shape = world.output.first_generation()

    def _draw_start(self) -> How:
        """Go on, begin anew, perhaps with another model, or try dead rows again, perhaps with a mended one."""
        chance, weather, job = self._chance, self._world.weather, self._job
        if chance.random() < weather.restarts:
            if chance.random() < 0.5:
                self._job = replace(job, version=job.version + 1, repair=0)
            return "restart"
        if chance.random() < weather.retries and self._may_retry():
            self._job = replace(job, repair=min(2, job.repair + chance.randint(0, 1)))
            return "retry"
        return "run"

    def _may_retry(self) -> bool:
        """Whether a retry reads the rows that died: those of a file that was rewritten since would be others."""
        if self._job.on_removed is None:
            return True
        current = self._world.output.current()
        begun = [] if current is None else self._world.output.generations(current[1])
        last = self._world.output.shape_of(begun[-1]).files if begun else ()
        return self._world.weather.runners == 1 and last == self._world.present

    def _change(self) -> None:
        """A file comes, is rewritten, or goes."""
        chance, files = self._chance, self._world.present
        kinds = ["comes", "is rewritten"]
        if len(files) > 1 and self._job.on_removed != "error":
            kinds.append("goes")
        kind, rows = chance.choice(kinds), chance.randint(2, 7)
        if kind == "comes":
            self._numbered += 1
            files = (*files, File(self._numbered, 0, rows))
        else:
            one = chance.choice(files)
            new = (replace(one, revision=one.revision + 1, rows=rows),) if kind == "is rewritten" else ()
            at = files.index(one)
            files = (*files[:at], *new, *files[at + 1 :])
        self._world.change(files)
        self._job = self._job.over(files)

    def _finish(self) -> None:
        """Start runners until one ends the job."""
        world, output = self._world, self._world.output
        refusal = ""
        for _ in range(LAST_STARTS):
            how: How = "run"
            current = output.current()
            if current is not None:
                begun = output.generations(current[1])
                newest = output.shape_of(begun[-1]) if begun else current[2]
                self._job = newest.over(world.present)
                may_retry = newest.files == world.present
                if begun and begun[-1].kind == "retry" and output.manifest(current[1]) and may_retry:
                    how = self._chance.choice(("run", "retry"))
            if refusal.endswith("begin anew with --restart"):
                how = "restart"
            started = world.start(how, self._job)
            others = [s for s in world.alive() if s is not started]
            for one in (started, *others):  # whoever is refused waits for the one that lives
                world.scheduler.join(one.task)
            refusal = started.refusal
            if not others and started.result is not None and started.result.state in (State.SUCCEEDED, State.PARTIAL):
                world.oracle.end(started.code)
                return
        world.failed(f"the job has not ended after {LAST_STARTS} starts in calm weather")
