"""What a run did over time, from its events: rows by the second, and what each worker had in hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from batchinfer.run.events import Event, Settled, Started, Ticked
from batchinfer.worker.context import Progress

SAMPLES = 240
"""Of the rows finished, that are kept: as many as a plot can show."""
SEGMENTS = 600
"""Of all workers' time, that are kept."""


@dataclass
class _Segment:
    begin: float
    end: float
    state: str
    shard: int | None
    shards: int

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def joined(self, later: _Segment) -> _Segment:
        """Both as one, named after the longer."""
        longer = self if self.seconds >= later.seconds else later
        shard = self.shard if self.shard is not None else later.shard
        return _Segment(self.begin, later.end, longer.state, shard, self.shards + later.shards)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "begin": round(self.begin, 3), "end": round(self.end, 3)}


@dataclass
class _Lane:
    progress: Progress
    segments: list[_Segment] = field(default_factory=list)

    def see(self, now: float, progress: Progress) -> None:
        """What the worker does from now on."""
        self.progress = progress
        state = "running" if progress.shard is not None else progress.note or "idle"
        last = self.segments[-1] if self.segments else None
        if last is not None:
            last.end = now
        if last is None or (last.state, last.shard) != (state, progress.shard):
            self.segments.append(_Segment(now, now, state, progress.shard, int(progress.shard is not None)))

    def coarsen(self) -> None:
        """Half as many segments."""
        pairs = zip(self.segments[::2], [*self.segments[1::2], None], strict=False)
        self.segments = [first if second is None else first.joined(second) for first, second in pairs]

    def to_json(self) -> dict[str, Any]:
        seen = self.progress
        return {
            "worker": seen.worker,
            "rows": seen.rows,
            "dead": seen.dead,
            "seconds": {stage: round(seconds, 3) for stage, seconds in asdict(seen.seconds).items()},
            "memory": seen.memory,
            "device_memory": seen.device_memory,
            "segments": [segment.to_json() for segment in self.segments if segment.seconds],
        }


class Watch:
    """A listener that keeps a run's course, in bounded memory however long it is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._samples: list[tuple[float, int]] = []
        self._gap = 0.0
        self._lanes: dict[int, _Lane] = {}
        self._settled = 0.0
        self._decided_before = 0

    def __call__(self, event: Event) -> None:
        """Take in an event of the run."""
        now = self._clock() - self._began
        if isinstance(event, Started):
            self._decided_before = event.decided_rows
        elif isinstance(event, Settled):
            self._settled = now
            self._samples.append((now, self._decided_before))
        elif isinstance(event, Ticked):
            self._sample(now, event.decided_rows + sum(p.in_hand for p in event.progress))
            for progress in event.progress:
                lane = self._lanes.setdefault(progress.worker, _Lane(progress))
                lane.see(now, progress)
            if sum(len(lane.segments) for lane in self._lanes.values()) > SEGMENTS:
                for lane in self._lanes.values():
                    lane.coarsen()

    def _sample(self, now: float, rows: int) -> None:
        rows = max(rows, self._samples[-1][1] if self._samples else 0)
        # The newest is replaced until it is far enough from the one before.
        if len(self._samples) > 1 and now - self._samples[-2][0] < self._gap:
            self._samples[-1] = (now, rows)
            return
        self._samples.append((now, rows))
        if len(self._samples) > SAMPLES:
            self._samples = self._samples[::2]
            self._gap = (now - self._samples[0][0]) / SAMPLES * 2

    def to_json(self) -> dict[str, Any]:
        """The facts that `run_results.json` has of it."""
        return {
            "settled": round(self._settled, 3),
            "decided_before": self._decided_before,
            "throughput": [[round(seconds, 3), rows] for seconds, rows in self._samples],
            "crew": [self._lanes[worker].to_json() for worker in sorted(self._lanes)],
        }
