"""Object storage in memory with what real ones do to their clients: slow, failing and lost answers, late effects, stale listings.

`Client` stands where an fsspec file system stands, so that the real store with its retries and its reading back runs above it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

ROOT = "sim://bucket/out"
_BASE = "bucket/out"


class Bucket:
    """What is stored, and since when."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.changed: dict[str, list[tuple[float, bool]]] = {}
        """For each name ever used: when it came and went."""
        self.watch: Callable[[str, str, bytes | None, bytes | None], None] = lambda _who, _path, _old, _new: None
        """Told of every change: whose it is, the name, the content before and after; None twice where what was not there is deleted."""

    def put(self, who: str, at: float, path: str, data: bytes) -> None:
        """Store an object."""
        old = self.objects.get(path)
        self.objects[path] = data
        if old is None:
            self.changed.setdefault(path, []).append((at, True))
        self.watch(who, path, old, data)

    def delete(self, who: str, at: float, path: str) -> None:
        """Remove an object, if it is there."""
        old = self.objects.pop(path, None)
        if old is not None:
            self.changed[path].append((at, False))
        self.watch(who, path, old, None)

    def damage(self, path: str, chance: Random) -> str:
        """Flip a bit, cut off the end, or put another object of the same folder in its place; says which."""
        data = self.objects.get(path, b"")
        others = [p for p in self.objects if "/wip/" in p and p != path]
        kind = chance.choice(("flipped", "cut off", "swapped"))
        if kind == "swapped" and others:
            self.objects[path] = self.objects[chance.choice(others)]
        elif kind == "cut off":
            self.objects[path] = data[: chance.randrange(len(data) + 1)]
        elif data:
            at = chance.randrange(len(data))
            self.objects[path] = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        return f"{path} is {kind}"

    def stood(self, path: str, at: float) -> bool:
        """Whether the name was there at that moment."""
        there = False
        for moment, came in self.changed[path]:
            if moment <= at:
                there = came
        return there


class Faults(Protocol):
    """What happens to a request, drawn from the history's seed."""

    @property
    def now(self) -> float:
        """Virtual time in seconds."""

    def request(self, who: str, verb: str, path: str) -> None:
        """Let the request take its time; raises Killed for a client that dies first, OSError for one that the service refuses."""

    def answer(self, who: str, verb: str, path: str) -> OSError | None:
        """The error that a client gets although its request was served."""

    def late(self, who: str, verb: str, path: str, effect: Callable[[], None]) -> bool:
        """Whether the effect comes later, by itself, and the client gets an error now."""

    def listed_at(self, who: str, prefix: str) -> Callable[[str], float]:
        """As of when a listing shows each name."""


class Client:
    """One process's connection to the bucket: the calls of fsspec that the store makes."""

    def __init__(self, bucket: Bucket, who: str, faults: Faults) -> None:
        self._bucket, self._who, self._faults = bucket, who, faults

    @staticmethod
    def _strip_protocol(path: str) -> str:
        return path.removeprefix("sim://")

    @staticmethod
    def _name(path: str) -> str:
        return path.removeprefix("sim://").removeprefix(_BASE).strip("/")

    def find(self, path: str, detail: bool = True) -> dict[str, dict[str, Any]]:
        """List, perhaps as it was a while ago."""
        prefix = self._name(path)
        self._faults.request(self._who, "list", prefix)
        at = self._faults.listed_at(self._who, prefix)
        below = f"{prefix}/" if prefix else ""
        return {
            f"{_BASE}/{name}": {"type": "file", "size": len(self._bucket.objects.get(name, b"")), "ETag": str(detail)}
            for name in self._bucket.changed
            if (name.startswith(below) or name == prefix) and self._bucket.stood(name, at(name))
        }

    def info(self, path: str) -> dict[str, Any]:
        """Size. Raises FileNotFoundError."""
        name = self._name(path)
        self._faults.request(self._who, "info", name)
        return {"size": len(self._found(name)), "type": "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read. Raises FileNotFoundError."""
        name = self._name(path)
        self._faults.request(self._who, "read", name)
        return self._found(name)[start:end]

    def _found(self, name: str) -> bytes:
        try:
            return self._bucket.objects[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite") -> None:
        """Put, or create where `mode` says so. Raises FileExistsError."""
        name, verb = self._name(path), "create" if mode == "create" else "put"
        self._faults.request(self._who, verb, name)

        def effect() -> None:
            if mode != "create" or name not in self._bucket.objects:
                self._bucket.put(self._who, self._faults.now, name, value)

        if self._faults.late(self._who, verb, name, effect):
            raise TimeoutError(f"{name}: no answer")
        if mode == "create" and name in self._bucket.objects:
            raise FileExistsError(name)
        effect()
        lost = self._faults.answer(self._who, verb, name)
        if lost is not None:
            raise lost

    def rm_file(self, path: str) -> None:
        """Delete. Raises FileNotFoundError."""
        name = self._name(path)
        self._faults.request(self._who, "delete", name)

        def effect() -> None:
            self._bucket.delete(self._who, self._faults.now, name)

        if self._faults.late(self._who, "delete", name, effect):
            raise TimeoutError(f"{name}: no answer")
        there = name in self._bucket.objects
        effect()
        if not there:
            raise FileNotFoundError(name)
        lost = self._faults.answer(self._who, "delete", name)
        if lost is not None:
            raise lost
