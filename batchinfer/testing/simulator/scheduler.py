"""Virtual time, and threads of which exactly one runs at a time: the order in which they take turns depends on the seed alone."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

STEPS = 60_000
"""Turns after which a history counts as one that never ends."""


class Killed(BaseException):
    """The process of this thread is gone: nothing that it does from here on has any effect."""


@dataclass(eq=False)
class Process:
    """Threads that live and die together."""

    name: str
    machine: str
    pid: int
    started: float
    dead: bool = False
    paused_until: float = 0.0
    """Stopped as by SIGSTOP until this moment."""
    hired: bool = False
    """A worker of another process."""
    tasks: list[Task] = field(default_factory=list)


class Task:
    """One thread of a simulated process."""

    def __init__(self, process: Process, name: str, function: Callable[[], object]) -> None:
        self.process, self.name, self.function = process, name, function
        self.done = False
        self.error: BaseException | None = None
        self.turn = 0
        self.started = False
        self.gate = threading.Lock()
        self.gate.acquire()
        self.joined_by: list[Task] = []


class Scheduler:
    """Hands the one baton around, by virtual time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.stopped = False
        self.current: Task | None = None
        self._tasks: list[Task] = []
        self._waiting: list[tuple[float, int, int, Task]] = []
        self._order = itertools.count()
        self._main = threading.Lock()
        self._main.acquire()

    def spawn(self, process: Process, name: str, function: Callable[[], object], after: float = 0.0) -> Task:
        """Start a thread of a process, which must be alive, `after` seconds from now."""
        task = Task(process, name, function)
        process.tasks.append(task)
        self._tasks.append(task)
        self._enqueue(task, self.now + after)
        return task

    def run(self) -> None:
        """Let all threads take turns until none has anything left to do, then end those that still wait for something."""
        self._go_round()
        for task in self._tasks:
            task.process.dead = True
        self.stopped = False
        for task in self._tasks:
            if not task.done:
                self._enqueue(task, self.now)
        self._go_round()

    def stop(self) -> None:
        """End the history after this turn."""
        self.stopped = True

    def pause(self, seconds: float) -> None:
        """Let others run for `seconds`. Raises Killed when the process died meanwhile."""
        me = self.me()
        self._enqueue(me, self.now + seconds)
        self._pass_on(me)

    def block(self, seconds: float | None = None) -> None:
        """Wait until another thread calls `wake`, at most `seconds`. Raises Killed."""
        me = self.me()
        me.turn += 1
        if seconds is not None:
            self._enqueue(me, self.now + seconds)
        self._pass_on(me)

    def wake(self, task: Task) -> None:
        """Let a thread that waits go on."""
        if not task.done and task is not self.current:
            self._enqueue(task, self.now)

    def join(self, task: Task, seconds: float | None = None) -> None:
        """Wait until a thread has ended, at most `seconds`. Raises Killed."""
        end = None if seconds is None else self.now + seconds
        while not task.done and (end is None or self.now < end):
            task.joined_by.append(self.me())
            self.block(None if end is None else end - self.now)

    def kill(self, process: Process) -> None:
        """End a process as kill -9 does. Raises Killed when it is the caller's own."""
        process.dead = True
        for task in process.tasks:
            self.wake(task)
        self.me()

    def resume(self, process: Process) -> None:
        """Let a process that is stopped go on."""
        process.paused_until = 0.0
        for task in process.tasks:
            self.wake(task)

    def me(self) -> Task:
        """The thread whose turn it is. Raises Killed when its process is dead."""
        assert self.current is not None
        if self.current.process.dead:
            raise Killed
        return self.current

    def _enqueue(self, task: Task, at: float) -> None:
        task.turn += 1
        heapq.heappush(self._waiting, (at, next(self._order), task.turn, task))

    def _next(self) -> Task | None:
        while self._waiting and not self.stopped:
            at, _, turn, task = heapq.heappop(self._waiting)
            if task.done or turn != task.turn:
                continue
            if task.process.paused_until > at and not task.process.dead:
                if task.process.paused_until < math.inf:
                    self._enqueue(task, task.process.paused_until)
                continue
            self.now = max(self.now, at)
            return task
        return None

    def _go_round(self) -> None:
        task = self._next()
        if task is not None:
            self._hand_to(task)
            self._main.acquire()

    def _pass_on(self, me: Task) -> None:
        """Hand the baton on and wait for it to come back."""
        self.steps += 1
        if self.steps > STEPS:
            self.stopped = True
        task = self._next()
        if task is not me:
            self._hand_to(task)
            me.gate.acquire()
        self.me()

    def _hand_to(self, task: Task | None) -> None:
        if task is None:
            self._main.release()
            return
        self.current = task
        if task.started:
            task.gate.release()
        else:
            task.started = True
            threading.Thread(target=self._live, args=(task,), name=task.name, daemon=True).start()

    def _live(self, task: Task) -> None:
        try:
            if not task.process.dead:
                task.function()
        except Killed:
            pass
        except BaseException as e:  # noqa: BLE001 - shown with the history
            task.error = e
        task.done = True
        for other in task.joined_by:
            self.wake(other)
        self._hand_to(self._next())
