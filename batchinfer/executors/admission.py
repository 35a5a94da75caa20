"""Whether the models of all workers fit into their machines' memory, and how many may be loaded at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from batchinfer.errors import ResourceError
from batchinfer.worker.memory import Need, Room

SHARE = 0.95
"""Of what is free: Ray ends processes before a machine's memory is used up."""


@dataclass(frozen=True)
class Candidate:
    """A worker that is to hold models."""

    need: Need
    """What it takes once it has loaded them."""
    room: Room
    key: str
    """Of the job file, which says how many there are of its kind."""


def admit(candidates: Iterable[Candidate]) -> dict[str, int]:
    """How many of the workers may load at a time, by machine, at least one on each; those that have loaded already are among them.

    Raises ResourceError where those of one machine or GPU need more than there is.
    """
    at_once: dict[str, int] = {}
    listed = list(candidates)
    for machine, here in _by(listed, lambda room: room.machine):
        free = min((c.room.free for c in here if c.room.free is not None), default=None)
        if free is None:
            at_once[machine] = len(here)
            continue
        usable = int(SHARE * free)
        left = usable - sum(c.need.process for c in here if not c.room.loaded)
        if left < 0:
            raise _refused(here, lambda need: need.process, usable, "on ")
        extra = max(c.need.peak - c.need.process for c in here)
        at_once[machine] = max(1, min(len(here), left // extra)) if extra > 0 else len(here)
    for _, here in _by([c for c in listed if c.room.device], lambda room: room.device):
        free = min(c.room.device_free for c in here)
        if sum(c.need.device or 0 for c in here if not c.room.loaded) > free:
            raise _refused(here, lambda need: need.device or 0, free, "on a GPU of ")
    return at_once


def fits(need: Need, room: Room) -> bool:
    """Whether one more worker fits where this one is."""
    host = room.free is None or need.process <= SHARE * room.free
    return host and (need.device is None or not room.device or need.device <= room.device_free)


def _by(candidates: Sequence[Candidate], key: Callable[[Room], str]) -> list[tuple[str, list[Candidate]]]:
    def of(candidate: Candidate) -> str:
        return key(candidate.room)

    return [(name, list(here)) for name, here in groupby(sorted(candidates, key=of), of)]


def _refused(here: Sequence[Candidate], size: Callable[[Need], int], usable: int, where: str) -> ResourceError:
    """Why those of a machine or GPU don't fit into what is usable, and what would help."""
    kinds: dict[str, list[Candidate]] = {}
    for candidate in here:
        kinds.setdefault(candidate.key, []).append(candidate)
    loading = [c for c in here if not c.room.loaded]
    total = sum(size(c.need) for c in loading)
    remedy = "free some, or take a smaller model or precision"
    if len(kinds) == 1:
        each, done = size(here[0].need), len(here) - len(loading)
        possible = done + usable // each
        if possible > 0:
            remedy = f"set {here[0].key} to {possible} or less"
        needs = f"{_workers(len(here))} {where}{here[0].room.name} need {_size(each)} of memory each"
    else:
        told = [f"{_workers(len(of))} ({key}) {_size(size(of[0].need))} each" for key, of in kinds.items()]
        needs = f"{where}{here[0].room.name} need {' and '.join(told)}"
        remedy = f"set fewer, {remedy}"
    return ResourceError(
        f"{' and '.join(kinds)}: {needs}, as the first load of the model was measured; {_workers(len(loading))} still to load it need "
        f"{_size(total)}, and {_size(usable)} can be used: {remedy}"
    )


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
