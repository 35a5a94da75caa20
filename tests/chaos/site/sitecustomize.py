"""Read by every Python process that a test of this folder starts, with this folder on PYTHONPATH: the real program, disturbed.

The environment variable CHAOS holds JSON:

    role      `driver` (the command line's process) or `worker` (a process of Ray's); others are left alone
    points    a list of {verb, path, when, count, signal, marker}: at the `count`-th call of a storage verb whose path matches,
              `before` or `after` it, the process gets the signal, once over all processes that share the marker file
    heartbeat seconds between this runner's signs of life, instead of the default
    patience  seconds that a silent runner's heartbeat is watched, instead of the default
    retry     seconds that a fault of the store is retried, instead of the default
"""

import json
import os
import re
import signal
import sys


def _role():
    words = sys.orig_argv[1:]
    if any(word.endswith("default_worker.py") for word in words):
        return "worker"
    return "driver" if words[:2] == ["-m", "batchinfer"] else None


def _strike(point):
    try:
        os.close(os.open(point["marker"], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    os.kill(os.getpid(), getattr(signal, point["signal"]))


def _guard(owner, verb, point, path_of):
    original = getattr(owner, verb)
    seen = 0

    def guarded(*arguments, **more):
        nonlocal seen
        hit = re.search(point["path"], str(path_of(arguments))) is not None
        seen += hit
        due = hit and seen == point["count"]
        if due and point["when"] == "before":
            _strike(point)
        result = original(*arguments, **more)
        if due and point["when"] == "after":
            _strike(point)
        return result

    setattr(owner, verb, guarded)


def _disturb(chaos):
    from batchinfer.storage import local, remote

    for point in chaos.get("points", ()):
        if point["verb"] == "link":  # inside a local create: the name stands, the temporary file too
            _guard(os, "link", point, lambda arguments: arguments[1])
        else:
            for store in (local.LocalStore, remote.FsspecStore):
                _guard(store, point["verb"], point, lambda arguments: arguments[1])
    if "retry" in chaos:
        remote.FsspecStore.__init__.__kwdefaults__["retry_seconds"] = chaos["retry"]
    from batchinfer.ledger import epochs

    if "heartbeat" in chaos:
        epochs.HEARTBEAT_SECONDS = chaos["heartbeat"]
    if "patience" in chaos:
        epochs.is_alive.__kwdefaults__["seconds"] = chaos["patience"]


if "CHAOS" in os.environ:
    _chaos = json.loads(os.environ["CHAOS"])
    if _role() in (_chaos.get("role"), *_chaos.get("roles", ())):
        _disturb(_chaos)
