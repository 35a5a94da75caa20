"""Whether the models of all workers fit into their machines' memory, and how many may be loaded at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from batchinfer.errors import ResourceError
from batchinfer.worker.memory import Need, Room

SHARE = 0.95
"""Of what is free: Ray ends processes before a machine's memory is used up."""


def admit(need: Need, rooms: Iterable[Room], key: str) -> dict[str, int]:
    """How many of the workers may load at a time, by machine, at least one on each.

    Args:
        need: what each takes once it has loaded.
        rooms: of all workers, those that have loaded already among them.
        key: of the job file, which says how many there are.

    Raises ResourceError where those of one machine or GPU need more than there is.

    """
    at_once: dict[str, int] = {}
    listed = list(rooms)
    for machine, here in _by(listed, lambda room: room.machine):
        free = min((room.free for room in here if room.free is not None), default=None)
        if free is None:
            at_once[machine] = len(here)
            continue
        usable = int(SHARE * free)
        left = usable - need.process * _to_load(here)
        if left < 0:
            raise _refused(key, need.process, here, usable, f"on {here[0].name}")
        extra = need.peak - need.process
        at_once[machine] = max(1, min(len(here), left // extra)) if extra > 0 else len(here)
    for _, here in _by([room for room in listed if room.device], lambda room: room.device):
        free = min(room.device_free for room in here)
        if need.device is not None and need.device * _to_load(here) > free:
            raise _refused(key, need.device, here, free, f"on a GPU of {here[0].name}")
    return at_once


def fits(need: Need, room: Room) -> bool:
    """Whether one more worker fits where this one is."""
    host = room.free is None or need.process <= SHARE * room.free
    return host and (need.device is None or not room.device or need.device <= room.device_free)


def _to_load(here: Sequence[Room]) -> int:
    return sum(not room.loaded for room in here)


def _by(rooms: Sequence[Room], key: Callable[[Room], str]) -> list[tuple[str, list[Room]]]:
    return [(name, list(here)) for name, here in groupby(sorted(rooms, key=key), key)]


def _refused(key: str, need: int, here: Sequence[Room], usable: int, where: str) -> ResourceError:
    count, loading = len(here), _to_load(here)
    possible = count - loading + usable // need
    remedy = f"set {key} to {possible} or less" if possible > 0 else "free some, or take a smaller model or precision"
    return ResourceError(
        f"{key}: {_workers(count)} {where} need {_size(need)} of memory each, as the first load of the model was measured; "
        f"{_workers(loading)} still to load it need {_size(need * loading)}, and {_size(usable)} can be used: {remedy}"
    )


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
