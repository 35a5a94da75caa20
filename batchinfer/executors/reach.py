"""Whether a Ray cluster's head answers: asked by a bare connection, because Ray itself waits a minute and then ends the program."""

from __future__ import annotations

import socket
import time

CONNECT_SECONDS = 5.0
GONE_SECONDS = 10.0
"""How long a head may be silent: long enough for a pause, short of the minute after which Ray ends whoever still waits."""
_LOOK_SECONDS = 2.0


def answers(address: str, seconds: float = CONNECT_SECONDS) -> bool:
    """Whether something listens at `host:port`; True for an address of another form, which only Ray can tell."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdecimal():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except OSError:
        return False
    return True


class HeadWatch:
    """Looks after a cluster's head, every other second at most."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._looked = self._answered = time.monotonic()

    def is_gone(self) -> bool:
        """Whether the head has been silent for too long."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        if answers(self.address, seconds=1.0):
            self._answered = now
        return now - self._answered > GONE_SECONDS
