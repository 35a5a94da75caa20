"""Ray: whether it is there, whether a cluster answers, and what a local one needs. None is started, and Ray isn't imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from batchinfer.doctor.finding import Finding, State
from batchinfer.doctor.libraries import installed
from batchinfer.doctor.machine import SHARED, SHARED_LITTLE, disk
from batchinfer.executors.reach import answers

_ADDRESS = "RAY_ADDRESS"
_CURRENT = "ray/ray_current_cluster"
"""Below Ray's temporary folder: the address of the cluster that was last begun on this machine."""
SECONDS = 3.0


def cluster(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What jobs with several workers can count on."""
    version = installed("ray")
    if version is None:
        yield Finding("ray", State.WRONG, "isn't installed", "pip install batchinfer")
        return
    yield Finding(
        "ray", State.FINE, f"{version}; several workers on this machine need no cluster: a run begins its own Ray"
    )
    if named := environ.get(_ADDRESS):
        if answers(bare(named), SECONDS):
            yield Finding("cluster", State.FINE, f"one answers at {_ADDRESS}; resources.address: auto joins it")
        else:
            yield Finding(
                "cluster",
                State.WARNING,
                f"none answers at {_ADDRESS}",
                "is it running, and is this its head's address?",
            )
    elif (found := local(environ)) is not None:
        yield Finding(
            "cluster", State.FINE, f"one answers on this machine, at {found}; resources.address: auto joins it"
        )
    else:
        yield Finding("cluster", State.ABSENT, f"{_ADDRESS} isn't set, and none runs on this machine")
    if SHARED.is_dir():
        advice = "Ray keeps objects there: give the container more, such as docker run --shm-size=4g"
        yield disk("shared memory", SHARED, advice, SHARED_LITTLE)


def bare(address: str) -> str:
    """`host:port` of an address that may begin with `ray://`."""
    return address.removeprefix("ray://").rstrip("/")


def local(environ: Mapping[str, str]) -> str | None:
    """The address of a cluster on this machine that answers; None without one."""
    folder = Path(environ.get("RAY_TMPDIR") or "/tmp")  # noqa: S108 - Ray's own
    try:
        address = (folder / _CURRENT).read_text().strip()
    except OSError:
        return None
    return address if address and answers(address, SECONDS) else None
